# SPDX-License-Identifier: AGPL-3.0-or-later
"""The protocol versions, and what hangs on them (docs/sync-protocol.md, 1.3, 1.4, 4.2)."""

from cardkeep.errors import UnsupportedVersion

OLDEST = 8
NEWEST = 11

#: What a form request counts as: the version is not in the form.
FORM = 10

#: From here on answers are zstd frames with `anki-original-size`. A request may carry the
#: anki-sync header with an older version; its answer is then plain.
PACKED_ANSWERS = 11


def require_known(version: int) -> None:
    """Raises UnsupportedVersion outside 8 to 11."""
    if not OLDEST <= version <= NEWEST:
        raise UnsupportedVersion(f"protocol version {version} is not one of {OLDEST} to {NEWEST}")
