# SPDX-License-Identifier: AGPL-3.0-or-later
"""What can go wrong, as a tree.

::

    CardkeepError
    ├── Refused                    the request is at fault; nothing was changed
    │   ├── BadRequest             framing, JSON, types, ranges, references
    │   │   └── TooLarge           a limit was passed; names the setting
    │   ├── UnknownMethod          no such address
    │   ├── WrongCredentials       name, password or host key
    │   ├── Throttled              too many wrong logins; says how long to wait
    │   ├── UnsupportedVersion     a protocol version we do not speak
    │   ├── Conflict               no session, another one, or the collection moved on
    │   │   └── MissingMedia       a file was asked for that is not there
    │   └── NotAccepted            whole-collection or media refusals that carry words
    │                              which the client shows to its user
    ├── Unavailable                try again later (stopping, locked by another program)
    │   └── DamagedCollection      until something is put in its place
    └── CommandError               a command cannot do what it should; a sentence for the operator
        ├── CopyError              a kept copy cannot be made, read or changed
        │   └── NoSuchCopy         there is none of that id
        ├── PackageError           nothing can be im- or exported like this
        ├── MigrationError         what another server left cannot be taken over
        ├── BackupError            a backup of the whole server cannot be made or restored
        │   └── DamagedBackup      the file is not what was written, or is no backup
        ├── SettingsError          a setting that cannot be used: key, value, source
        └── AccountError           a user or device cannot be made or changed
            └── UserExists         there is one of that name

Inner rooms raise these and know nothing of status codes; `http.errors` holds the one
table that turns a class into a status.
"""


class CardkeepError(Exception):
    """Root of all errors that cardkeep raises on purpose."""


class Refused(CardkeepError):
    """The request is at fault.

    `reason` is for the log: one line, exact, without secrets.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BadRequest(Refused):
    """Framing, JSON, a type, a range or a reference is wrong."""


#: In place of the name of a setting, where a limit has none.
FIXED = "none: it is fixed"


class TooLarge(BadRequest):
    """A limit was passed; `setting` names the one to raise."""

    def __init__(self, reason: str, setting: str) -> None:
        super().__init__(f"{reason} (setting {setting})")
        self.setting = setting


class UnknownMethod(Refused):
    """No such address or method."""


class WrongCredentials(Refused):
    """Wrong name, password or host key: the one error that makes clients log out."""


class Throttled(Refused):
    """Too many wrong logins; `retry_after` is in seconds."""

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class UnsupportedVersion(Refused):
    """The client speaks a protocol version outside 8 to 11."""


class Conflict(Refused):
    """No sync is open under that key, or the collection is no longer the one it began with."""


class MissingMedia(Conflict):
    """A media file was asked for that the server does not have."""


class NotAccepted(Refused):
    """A refusal that the client shows: `words` is a sentence for its user."""

    def __init__(self, words: str, reason: str | None = None) -> None:
        super().__init__(reason or words)
        self.words = words


class Unavailable(CardkeepError):
    """The server cannot do it now; trying again later helps."""


class DamagedCollection(Unavailable):
    """What is stored cannot be read, until something is put in its place."""


class CommandError(CardkeepError):
    """A command cannot do what it should; the text is a sentence for the operator."""


class CopyError(CommandError):
    """A kept copy cannot be made, read or changed."""


class NoSuchCopy(CopyError):
    """There is no kept copy of that id."""


class MigrationError(CommandError):
    """What another server left cannot be taken over."""


class PackageError(CommandError):
    """Nothing can be im- or exported like this."""


class BackupError(CommandError):
    """A backup of the whole server cannot be made or restored."""


class DamagedBackup(BackupError):
    """The file is not what was written, or is no backup at all."""


class SettingsError(CommandError):
    """A setting that cannot be used; the text names key, value, source and what is expected."""


class AccountError(CommandError):
    """A user or device cannot be made or changed."""


class UserExists(AccountError):
    """There is a user of that name already."""
