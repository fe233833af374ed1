# SPDX-License-Identifier: AGPL-3.0-or-later
"""cardkeep: a sync server for Anki. Start reading at `app`."""

__version__ = "0.1.0"
