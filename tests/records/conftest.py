# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long an example may take is no matter here: machines are slow at times."""

from hypothesis import settings

settings.register_profile(
    "untimed",
    settings.get_profile("default"),
    deadline=None,
    phases=[__import__("hypothesis").Phase.generate],
)
settings.load_profile("untimed")
