# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where a user's things are: the official server's names, and ours below `.cardkeep`."""

from functools import cached_property
from pathlib import Path


class UserFolder:
    """The folder of one user (docs/design.md, section 4).

    A path is put together once, since several are needed in each request.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def collection(self) -> Path:
        """The collection, schema 18, as the official server names it."""
        return self.root / "collection.anki2"

    @cached_property
    def ours(self) -> Path:
        """Everything that only cardkeep reads."""
        return self.root / ".cardkeep"

    @cached_property
    def session(self) -> Path:
        """The state of the live sync; its inode never changes, so it is also the user's lock."""
        return self.ours / "session"

    @cached_property
    def journal(self) -> Path:
        """What the client of the live sync sent, and what was worked out for it."""
        return self.ours / "journal"

    @cached_property
    def counts(self) -> Path:
        """The number of rows of each kind, and the state for which they hold."""
        return self.ours / "counts"

    @cached_property
    def former_names(self) -> Path:
        """What decks and notetypes were called before they were renamed."""
        return self.ours / "former-names"

    def brought(self, device: str) -> Path:
        """The reviews that the last sync of an old client brought."""
        return self.ours / f"brought-{device}"

    def make(self) -> None:
        """Creates the folder and ours in it; readable by the server's own user only."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.ours.mkdir(mode=0o700, exist_ok=True)
