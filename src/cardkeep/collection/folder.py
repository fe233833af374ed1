# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where a user's things are: the official server's names, and ours below `.cardkeep`."""

import os
from functools import cached_property
from pathlib import Path

from cardkeep.disk import Stamp, give_to_owner, stamp


class UserFolder:
    """The folder of one user (docs/design.md, section 4).

    A path is put together once, since several are needed in each request.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._text = str(root)
        #: The stamp under which there was no notice.
        self.without_notice: Stamp | None = None

    def stamp(self) -> Stamp | None:
        """What is another one once anything but ours came, went or was replaced; also a notice.

        None as long as it cannot be relied on.
        """
        return stamp(self._text)

    @cached_property
    def collection(self) -> Path:
        """The collection, schema 18, as the official server names it."""
        return self.root / "collection.anki2"

    @cached_property
    def collection_text(self) -> str:
        """The path of the collection as text, which a path takes its time to become."""
        return str(self.collection)

    @cached_property
    def fresh(self) -> Path:
        """A new collection while it is being made, under the user's lock."""
        return self.ours / "new.anki2"

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
    def snapshots(self) -> Path:
        """The kept copies, a folder each."""
        return self.ours / "snapshots"

    @cached_property
    def copied(self) -> Path:
        """Empty; its time is when a copy was last kept."""
        return self.ours / "copied"

    @cached_property
    def notice(self) -> Path:
        """What the user is still to be told through the protocol."""
        return self.ours / "notice"

    @cached_property
    def allowance(self) -> Path:
        """Empty; while it is there and young, one upload may lose much."""
        return self.ours / "upload-allowed"

    @cached_property
    def history(self) -> Path:
        """What happened to the user, a line each."""
        return self.ours / "history"

    @cached_property
    def old_history(self) -> Path:
        """The lines before those."""
        return self.ours / "history.old"

    @cached_property
    def former_names(self) -> Path:
        """What decks and notetypes were called before they were renamed."""
        return self.ours / "former-names"

    @cached_property
    def lost_usns(self) -> Path:
        """Usns that were given out by later states, which a backup put an end to."""
        return self.ours / "lost-usns"

    @cached_property
    def damaged(self) -> Path:
        """Collections that could not be read when something was put in their place."""
        return self.ours / "damaged"

    def brought(self, device: str) -> Path:
        """The reviews that the last sync of an old client brought."""
        return self.ours / f"brought-{device}"

    def make(self) -> None:
        """Creates the folder and ours in it; readable by the server's own user only."""
        for folder in (self.root, self.ours):
            try:
                folder.mkdir(mode=0o700, parents=True)
            except FileExistsError:
                continue
            give_to_owner(folder, self.root.parent)

    def open_own(self, path: Path, flags: int) -> int:
        """A descriptor of one of our files, which is made if it is not there."""
        try:
            return os.open(path, flags | os.O_CLOEXEC)
        except FileNotFoundError:
            self.make()
        descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_to_owner(descriptor, self.root)
        return descriptor
