# SPDX-License-Identifier: AGPL-3.0-or-later
"""Users and devices, in accounts.db.

A user comes from one of three places, and the `source` column says which:

    own           made by `cardkeep user add`, or taken over from another server with the
                  password hash of that; the password is stored as a scrypt hash, or will be
                  from the first login on
    environment   given by SYNC_USERn to the running server; the password is not stored
    open          made by the first login of a server that runs with --open

`former` are users of the environment of an earlier start: they are kept, since their folder
is, but cannot sync.

A device is one login, with a random key of its own. What is stored of the key is its SHA-256,
which is enough to recognise it and not enough to sync. The keys of environment users are
bound to the password: HMAC-SHA-256 with the device key as key and the password as message is
stored, and checked at each use; so another SYNC_USERn password ends them, and as the device
key is not stored, the password cannot be guessed from it.

The official server's key is the SHA-1 of `name:password`. It is accepted for environment users
given in plain text, so that a move from there needs no new login. One device of kind
`official` stands for it; nothing that was derived from the password is stored there.
"""

import contextlib
import hashlib
import hmac
import logging
import secrets
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardkeep.accounts import database, passwords, throttle
from cardkeep.accounts.login import (
    Counter,
    Judge,
    Secret,
    log_failure,
    log_success,
    log_throttled,
    quoted,
)
from cardkeep.accounts.names import check_name, folded
from cardkeep.errors import AccountError, Throttled, Unavailable, UserExists, WrongCredentials

log = logging.getLogger("cardkeep.accounts")

NOTE_AFTER = 300  # seconds; a device's last use is not written down more often
SEEN = 1000  # devices remembered between two changes of the file; some 300 bytes each
TRUSTED = 0.1  # seconds between two looks whether the file changed; who ends a key waits so long
FLUSH_AFTER = 2.0  # seconds that such notes are gathered
MOST_DEVICES = 500  # per user; beyond it the one unused for longest makes place

_AUTHENTICATED = """
    devices.id,
    devices.kind,
    devices.binding,
    devices.client,
    devices.address,
    devices.created,
    devices.last_used,
    users.name,
    users.source,
    users.disabled
"""


@dataclass(frozen=True, slots=True)
class Device:
    """One login. Times are seconds since 1970; `kind` is `key`, `official` or `open`."""

    id: str
    user: str
    kind: str
    client: str
    address: str
    created: int
    last_used: int | None


@dataclass(frozen=True, slots=True)
class Granted:
    """A login that was right: the host key, and whose and which device it is for."""

    key: str
    user: str
    device: str


@dataclass(frozen=True, slots=True)
class User:
    """One account; `source` as in the module's text."""

    name: str
    source: str
    disabled: bool
    created: int
    devices: int
    last_used: int | None


class AccountStore:
    """The accounts of one base folder. Safe for threads; any number of processes may have one.

    `environment_users` maps names to passwords, or to PHC strings if `hashed`. The command line
    gives None: it does not know the server's environment, and changes nothing about it.
    Raises AccountError for a name that cannot be a folder, Unavailable for an unusable file.
    """

    def __init__(
        self,
        base: Path,
        *,
        environment_users: Mapping[str, str] | None = None,
        hashed: bool = False,
        open_mode: bool = False,
        now: float | None = None,
    ) -> None:
        self.base = base
        self._environment = {
            check_name(name): password for name, password in (environment_users or {}).items()
        }
        self._hashed = hashed
        self._open_mode = open_mode
        # Both sides of this lookup are digests, so its timing tells nothing of the key.
        self._official: dict[bytes, str] = {}
        if not hashed:
            for name, password in self._environment.items():
                key = hashlib.sha1(f"{name}:{password}".encode()).hexdigest()
                self._official[_digest(key)] = name
        path = database.prepare(base)
        self._reader = database.connect(path)  # for `authenticate` alone
        self._version = -1  # of the file, when the devices in `_seen` were read
        self._looked = float("-inf")  # when, on the monotonic clock
        self._seen: dict[str, Device] = {}
        self._writer = database.connect(path)
        self._lock = threading.Lock()  # guards _writer; never held while hashing
        self._uses = _Uses(self._write_uses)
        self._judge = Judge(self._decoys)
        if environment_users is not None:
            self._record_environment(int(_time(now)))

    def close(self) -> None:
        """Writes what is left to write and closes the file."""
        self._judge.close()
        self._uses.close()
        with self._lock:
            self._writer.close()
        self._reader.close()

    def _decoys(self) -> list[str]:
        """Of each kind of hash that a wrong login could be held against."""
        foreign = list(self._environment.values()) if self._hashed else []
        with self._reading() as connection:
            rows = connection.execute(
                """
                SELECT password FROM users
                WHERE source = 'own' AND password NOT LIKE '$scrypt$%'
                    AND password NOT LIKE '$ankisyncd$%'
                """
            ).fetchall()
        foreign.extend(password for (password,) in rows)
        return [passwords.own_decoy(), *map(passwords.decoy, foreign)]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException as error:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):  # locked for long, disk full
                    raise Unavailable(f"the accounts cannot be written: {error}") from error
                raise

    @contextlib.contextmanager
    def _ending_keys(self) -> Iterator[sqlite3.Connection]:
        """Writes; at the end no server process of this folder takes an ended key any more."""
        with self._writing() as connection:
            yield connection
        time.sleep(TRUSTED)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._writer

    # --- host keys ----------------------------------------------------------------------

    def authenticate(
        self, host_key: str, *, address: str, client: str, now: float | None = None
    ) -> Device | None:
        """The device that a host key belongs to, or None if it belongs to none any more.

        Short, and never waits: one row is read, or none while nothing in the file changed
        since the same device was here, which is looked at each TRUSTED seconds. That it was
        used is noted in memory and written a little later by another thread, at most every few
        minutes or when the client or address is another one.
        """
        now = _time(now)
        self._forget_what_changed()
        seen = self._seen.get(host_key)
        if seen is not None:
            last = seen.last_used
            same = client in ("", seen.client) and address in ("", seen.address)
            if same and last is not None and -NOTE_AFTER < now - last < NOTE_AFTER:
                return seen
        device = self._look_up(host_key, _digest(host_key), address=address, client=client, now=now)
        if device is not None and len(self._seen) < SEEN:
            self._seen[host_key] = device
        return device

    def _forget_what_changed(self) -> None:
        moment = time.monotonic()
        if moment - self._looked < TRUSTED:
            return
        # Changes whenever another connection, of any process, commits; this one never does.
        version = self._read("PRAGMA data_version")[0][0]
        self._looked = moment
        if version != self._version:
            self._version = version
            self._seen.clear()

    def _look_up(
        self, host_key: str, digest: bytes, *, address: str, client: str, now: float
    ) -> Device | None:
        rows = self._read(
            f"""
            SELECT {_AUTHENTICATED}
            FROM devices JOIN users ON users.id = devices.user
            WHERE devices.key = ?
            """,
            digest,
        )
        if not rows:
            rows = self._official_row(digest)
            if not rows:
                return None
        number, kind, binding, old_client, old_address, created, last, name, source, disabled = (
            rows[0]
        )
        if disabled:
            return None
        if kind == "open":
            if not self._open_mode:
                return None
        elif source == "environment":
            password = self._environment.get(name)
            if password is None:
                return None
            if kind == "key" and not _is_bound(binding, host_key, password):
                return None
        elif source != "own":
            return None
        if (
            last is None
            or not -NOTE_AFTER < now - last < NOTE_AFTER
            or (client and client != old_client)
            or (address and address != old_address)
        ):
            self._uses.note(number, int(now), client, address)
        return Device(str(number), name, kind, client or old_client, address, created, int(now))

    def _official_row(self, digest: bytes) -> list[Any]:
        name = self._official.get(digest)
        if name is None:
            return []
        return self._read(
            f"""
            SELECT {_AUTHENTICATED}
            FROM users JOIN devices ON devices.user = users.id
            WHERE users.name = ?
                AND users.source = 'environment'
                AND devices.kind = 'official'
                AND devices.revoked IS NULL
            """,
            name,
        )

    def _read(self, statement: str, *values: bytes | str) -> list[Any]:
        try:
            # All rows, though there is one: that ends the read, so the next sees what is new.
            return self._reader.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            raise Unavailable(f"the accounts cannot be read: {error}") from error

    def write_uses(self) -> None:
        """Writes down at once what is known of the devices' last uses."""
        self._uses.write()

    def _write_uses(self, uses: Mapping[int, tuple[int, str, str]]) -> None:
        with self._writing() as connection:
            connection.executemany(
                """
                UPDATE devices SET
                    last_used = :now,
                    client = CASE WHEN :client = '' THEN client ELSE :client END,
                    address = CASE WHEN :address = '' THEN address ELSE :address END
                WHERE id = :id
                """,
                [
                    {"id": number, "now": now, "client": client, "address": address}
                    for number, (now, client, address) in uses.items()
                ],
            )

    # --- login --------------------------------------------------------------------------

    def login(
        self, name: str, password: str, *, address: str, client: str, now: float | None = None
    ) -> Granted:
        """A new host key for a right name and password. Blocks: to be called in a thread.

        Raises WrongCredentials, Throttled and Unavailable; each has left its line in the log.
        """
        given, moment = name, int(_time(now))
        name = unicodedata.normalize("NFC", name)
        if self._open_mode and self._is_free(name):
            return self._grant_open(name, address, client, moment)
        counter = Counter(
            lambda: self._seconds_to_wait(address, name, moment),
            lambda: self._note_failure(address, name, moment),
        )
        try:
            key, device = self._judged(name, password, counter, address, client, moment)
        except WrongCredentials:
            log_failure(given, address)
            raise
        except Throttled as error:
            log_throttled(given, address, error.retry_after)
            raise
        log_success(name, address, client, device)
        return Granted(key, name, device)

    def _judged(
        self, name: str, password: str, counter: Counter, address: str, client: str, now: int
    ) -> tuple[str, str]:
        """A new key and the id of its device."""
        # A second time if the user was changed while the password was being judged: another
        # device's first login may have put a hash of our own in the place of a foreign one.
        for _ in range(2):
            secret = self._secret(name)
            self._judge.check(secret, password, counter)
            if secret is None:  # cannot be: the judge knows no password for it
                break
            # The hash of a user of the environment is not ours to replace.
            own = name not in self._environment
            renewed = self._judge.renewed(secret, password) if own else None
            granted = self._grant(name, secret, renewed, address, client, now)
            if granted:
                return granted
        raise WrongCredentials("wrong user name or password")

    def _secret(self, name: str) -> Secret | None:
        if name in self._environment:
            return Secret(self._environment[name], self._hashed, name)
        if not _storable(name):
            return None
        with self._reading() as connection:
            row = connection.execute(
                "SELECT password FROM users WHERE name = ? AND source = 'own' AND disabled = 0",
                (name,),
            ).fetchone()
        return Secret(row[0], True, name) if row else None

    def _grant(
        self,
        name: str,
        secret: Secret,
        renewed: str | None,
        address: str,
        client: str,
        now: int,
    ) -> tuple[str, str] | None:
        """Makes a device; None if the user was changed while the password was being judged.

        `renewed` is a hash of our own, to be stored instead of the one that it was held against.
        """
        key = secrets.token_urlsafe(30)
        environment = name in self._environment
        with self._writing() as connection:
            row = connection.execute(
                """
                SELECT id FROM users
                WHERE name = ? AND source = ? AND disabled = 0 AND (? OR password = ?)
                """,
                (name, "environment" if environment else "own", environment, secret.text),
            ).fetchone()
            if row is None:
                return None
            if renewed:
                connection.execute("UPDATE users SET password = ? WHERE id = ?", (renewed, row[0]))
            binding = _binding(key, secret.text) if environment else None
            device = _insert_device(connection, row[0], "key", key, binding, address, client, now)
            throttle.clear(connection, address, name)
        return key, device

    def _is_free(self, name: str) -> bool:
        """Whether --open lets anybody in by that name: those with a password keep it."""
        if name in self._environment:
            return False
        if not _storable(name):
            return True  # refused as a folder name, in words
        with self._reading() as connection:
            row = connection.execute(
                "SELECT 1 FROM users WHERE name = ? AND source = 'own'", (name,)
            ).fetchone()
        return row is None

    def _grant_open(self, name: str, address: str, client: str, now: int) -> Granted:
        key = secrets.token_urlsafe(30)
        try:
            name = check_name(name)
            with self._writing() as connection:
                user = _insert_or_adopt(connection, name, "open", None, now)
                device = _insert_device(connection, user, "open", key, None, address, client, now)
        except AccountError as error:
            log_failure(name, address)
            raise WrongCredentials(str(error)) from None
        log_success(name, address, client, device)
        return Granted(key, name, device)

    def _seconds_to_wait(self, address: str, name: str, now: int) -> int:
        with self._reading() as connection:
            return throttle.seconds_to_wait(connection, address, name, now)

    def _note_failure(self, address: str, name: str, now: int) -> None:
        with self._writing() as connection:
            throttle.note_failure(connection, address, name, now)

    # --- users --------------------------------------------------------------------------

    def users(self) -> list[User]:
        """All users, by name."""
        with self._reading() as connection:
            rows = connection.execute(
                """
                SELECT
                    users.name,
                    users.source,
                    users.disabled,
                    users.created,
                    count(devices.id) FILTER (
                        WHERE devices.revoked IS NULL
                            AND (devices.kind != 'official' OR devices.last_used IS NOT NULL)
                    ),
                    max(devices.last_used)
                FROM users LEFT JOIN devices ON devices.user = users.id
                GROUP BY users.id
                ORDER BY users.folded, users.name
                """
            ).fetchall()
        return [
            User(name, source, bool(disabled), created, devices, last)
            for name, source, disabled, created, devices, last in rows
        ]

    def has_users(self) -> bool:
        """Whether anybody can log in with a password."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT 1 FROM users WHERE source IN ('own', 'environment') LIMIT 1"
            ).fetchone()
        return row is not None

    def add_user(self, name: str, password: str, *, now: float | None = None) -> None:
        """Makes an own user. Raises UserExists, and AccountError for a name that cannot be."""
        name = check_name(name)
        hashed = passwords.hash_password(_checked_password(password))
        with self._ending_keys() as connection:
            _insert_or_adopt(connection, name, "own", hashed, int(_time(now)))

    def take_over(
        self,
        name: str,
        password: str,
        keys: Sequence[str] = (),
        *,
        client: str = "",
        now: float | None = None,
    ) -> None:
        """Makes an own user of one that another server had.

        `password` is a PHC string of any kind that we take; `keys` are host keys with which the
        user's devices are logged in there, and stay so; `client` says of these what is known.
        Raises UserExists, and AccountError for a name or a password hash that cannot be.
        """
        name, moment = check_name(name), int(_time(now))
        passwords.check_phc(password)
        # Not waited for: thousands come in one go. Keys end by this only of a user whom nobody
        # claims, and a server that runs meanwhile knows within TRUSTED.
        with self._writing() as connection:
            user = _insert_or_adopt(connection, name, "own", password, moment)
            for key in dict.fromkeys(keys):
                _insert_device(connection, user, "key", key, None, "", client, moment)

    def check_free(self, name: str) -> None:
        """Raises UserExists or AccountError if no user of that name can be made."""
        with self._reading() as connection:
            _check_free(connection, check_name(name))

    def check_changeable(self, name: str, *, of_any_source: bool = False) -> None:
        """Raises AccountError if no such user can be changed (or removed, `of_any_source`)."""
        with self._reading() as connection:
            _changeable(connection, name, of_any_source=of_any_source)

    def set_password(self, name: str, password: str) -> None:
        """Gives an own user another password; all keys of the user end. Raises AccountError."""
        hashed = passwords.hash_password(_checked_password(password))
        with self._ending_keys() as connection:
            user = _changeable(connection, name)
            connection.execute("UPDATE users SET password = ? WHERE id = ?", (hashed, user))
            _revoke_all(connection, user, None)

    def disable(self, name: str) -> None:
        """Locks an own user out; all keys of the user end. Raises AccountError."""
        with self._ending_keys() as connection:
            user = _changeable(connection, name)
            connection.execute("UPDATE users SET disabled = 1 WHERE id = ?", (user,))
            _revoke_all(connection, user, None)

    def enable(self, name: str) -> None:
        """Lets a disabled user log in again. Raises AccountError."""
        with self._writing() as connection:
            user = _changeable(connection, name)
            connection.execute("UPDATE users SET disabled = 0 WHERE id = ?", (user,))

    def remove_user(self, name: str) -> None:
        """Forgets a user and all keys; the folder stays. Raises AccountError."""
        with self._ending_keys() as connection:
            user = _changeable(connection, name, of_any_source=True)
            connection.execute("DELETE FROM users WHERE id = ?", (user,))

    # --- devices ------------------------------------------------------------------------

    def devices(self, name: str) -> list[Device]:
        """The devices of a user that can sync, last used first. Raises AccountError."""
        with self._reading() as connection:
            user = _existing(connection, name)[0]
            rows = connection.execute(
                """
                SELECT id, kind, client, address, created, last_used
                FROM devices
                WHERE user = ?
                    AND revoked IS NULL
                    AND (kind != 'official' OR last_used IS NOT NULL)
                ORDER BY coalesce(last_used, created) DESC, id DESC
                """,
                (user,),
            ).fetchall()
        return [
            Device(str(number), unicodedata.normalize("NFC", name), *rest) for number, *rest in rows
        ]

    def revoke(self, name: str, device: str | None = None, *, now: float | None = None) -> int:
        """Ends one device's key, or all keys of the user; returns how many ended.

        An `official` key stays revoked for good. Raises AccountError.
        """
        moment = int(_time(now))
        with self._ending_keys() as connection:
            user = _existing(connection, name)[0]
            if device is None:
                return _revoke_all(connection, user, moment)
            if not (device.isascii() and device.isdigit() and len(device) < 19):
                raise AccountError(f"{name} has no device {device!r}")
            ended = _revoke_one(connection, user, int(device), moment)
            if not ended:
                raise AccountError(f"{name} has no device {device}")
            return ended

    # --- environment --------------------------------------------------------------------

    def _record_environment(self, now: int) -> None:
        """Writes the names of the environment's users down; passwords stay in memory.

        Writes only what differs from the last start: with the same users, nothing.
        """
        with self._reading() as connection:
            if not self._environment_differs(connection):
                return
        with self._writing() as connection:
            recorded = _sources(connection)
            for name in self._environment:
                source = recorded.get(name)
                if source == "own":
                    log.warning(
                        "user %s is given by the environment now; the password that was set "
                        "by command does not count meanwhile",
                        quoted(name),
                    )
                if source != "environment":
                    _take_into_environment(connection, name, now)
            for name, source in recorded.items():
                if source == "environment" and name not in self._environment:
                    _let_go_of_environment(connection, name)
            if not self._hashed:
                _insert_official_devices(connection, now)

    def _environment_differs(self, connection: sqlite3.Connection) -> bool:
        recorded = {n for n, source in _sources(connection).items() if source == "environment"}
        if recorded != self._environment.keys():
            return True
        return not self._hashed and bool(_without_official_device(connection))


class _Uses:
    """Last uses of devices, gathered in memory and written together by a thread of its own."""

    def __init__(self, write: Callable[[Mapping[int, tuple[int, str, str]]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._pending: dict[int, tuple[int, str, str]] = {}
        self._timer: threading.Timer | None = None

    def note(self, device: int, now: int, client: str, address: str) -> None:
        with self._lock:
            self._pending[device] = (now, client, address)
            if self._timer is None:
                self._timer = threading.Timer(FLUSH_AFTER, self.write)
                self._timer.daemon = True
                self._timer.start()

    def write(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
            self._timer = None
        if not pending:
            return
        try:
            self._write(pending)
        except (Unavailable, sqlite3.Error) as error:
            # Only the list of devices suffers; the next use is noted again.
            log.warning("the last use of %d devices could not be noted: %s", len(pending), error)

    def close(self) -> None:
        timer = self._timer
        if timer is not None:
            timer.cancel()
        self.write()


# --- rows, within the caller's transaction ----------------------------------------------


def _insert_or_adopt(
    connection: sqlite3.Connection, name: str, source: str, password: str | None, now: int
) -> int:
    """A user's row of that source: a new one, or that of a user whom nobody claims now."""
    unclaimed = _check_free(connection, name)
    if unclaimed is None:
        cursor = connection.execute(
            """
            INSERT INTO users (name, folded, source, password, created)
            VALUES (?, ?, ?, ?, ?)
            """,
            (name, folded(name), source, password, now),
        )
        assert cursor.lastrowid is not None  # noqa: S101 - true of every INSERT
        return cursor.lastrowid
    user, old_source = unclaimed
    if old_source != source:
        connection.execute(
            "UPDATE users SET source = ?, password = ?, disabled = 0 WHERE id = ?",
            (source, password, user),
        )
        connection.execute("DELETE FROM devices WHERE user = ? AND kind != 'official'", (user,))
    return user


def _check_free(connection: sqlite3.Connection, name: str) -> tuple[int, str] | None:
    """The user of that name whom nobody claims, if there is one. Raises UserExists."""
    rows = connection.execute(
        "SELECT id, name, source FROM users WHERE folded = ?", (folded(name),)
    ).fetchall()
    for user, other, other_source in rows:
        if other == name and other_source not in {"own", "environment"}:
            return user, other_source
    for _, other, other_source in rows:
        if other == name:
            where = " (given by SYNC_USERn)" if other_source == "environment" else ""
            raise UserExists(f"there is a user {name} already{where}")
        raise AccountError(
            f"the name {name} differs only in case from the user {other}; some file systems "
            "would give both one folder"
        )
    return None


def _insert_device(
    connection: sqlite3.Connection,
    user: int,
    kind: str,
    key: str,
    binding: bytes | None,
    address: str,
    client: str,
    now: int,
) -> str:
    connection.execute(
        """
        DELETE FROM devices WHERE id IN (
            SELECT id FROM devices
            WHERE user = ? AND kind != 'official'
            ORDER BY coalesce(last_used, created) DESC, id DESC
            LIMIT -1 OFFSET ?
        )
        """,
        (user, MOST_DEVICES - 1),
    )
    cursor = connection.execute(
        """
        INSERT INTO devices (user, kind, key, binding, client, address, created)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        """,
        (user, kind, _digest(key), binding, client, address, now),
    )
    return str(cursor.lastrowid)


def _existing(connection: sqlite3.Connection, name: str) -> tuple[int, str]:
    """Row id and source of a user. Raises AccountError."""
    row: tuple[int, str] | None = connection.execute(
        "SELECT id, source FROM users WHERE name = ?", (unicodedata.normalize("NFC", name),)
    ).fetchone()
    if row is None:
        raise AccountError(f"there is no user {name}")
    return row


_UNCHANGEABLE = {
    "environment": "{name} is given by SYNC_USERn to the server, and can only be changed there",
    "former": "{name} was given by SYNC_USERn to an earlier start of the server and has no "
    "password now; `cardkeep user add` gives it one",
    "open": "{name} was made by a server with --open and has no password; "
    "`cardkeep user add` gives it one",
}


def _changeable(connection: sqlite3.Connection, name: str, *, of_any_source: bool = False) -> int:
    """Row id of a user that a command may change. Raises AccountError."""
    user, source = _existing(connection, name)
    allowed = {"own", "former", "open"} if of_any_source else {"own"}
    if source not in allowed:
        raise AccountError(_UNCHANGEABLE[source].format(name=name))
    return user


def _revoke_all(connection: sqlite3.Connection, user: int, now: int | None) -> int:
    """Ends all keys; the official one too if `now` is given."""
    ended = connection.execute(
        "DELETE FROM devices WHERE user = ? AND kind != 'official'", (user,)
    ).rowcount
    if now is not None:
        ended += connection.execute(
            "UPDATE devices SET revoked = ? WHERE user = ? AND revoked IS NULL", (now, user)
        ).rowcount
    return ended


def _revoke_one(connection: sqlite3.Connection, user: int, device: int, now: int) -> int:
    ended = connection.execute(
        """
        UPDATE devices SET revoked = ?
        WHERE user = ? AND id = ? AND kind = 'official' AND revoked IS NULL
        """,
        (now, user, device),
    ).rowcount
    ended += connection.execute(
        "DELETE FROM devices WHERE user = ? AND id = ? AND kind != 'official'", (user, device)
    ).rowcount
    return ended


def _sources(connection: sqlite3.Connection) -> dict[str, str]:
    return dict(connection.execute("SELECT name, source FROM users").fetchall())


def _take_into_environment(connection: sqlite3.Connection, name: str, now: int) -> None:
    connection.execute(
        """
        INSERT INTO users (name, folded, source, created) VALUES (?, ?, 'environment', ?)
        ON CONFLICT (name) DO UPDATE SET source = 'environment', disabled = 0
        """,
        (name, folded(name), now),
    )
    connection.execute(
        """
        DELETE FROM devices
        WHERE kind != 'official' AND user = (SELECT id FROM users WHERE name = ?)
        """,
        (name,),
    )


def _let_go_of_environment(connection: sqlite3.Connection, name: str) -> None:
    connection.execute(
        """
        DELETE FROM devices
        WHERE kind != 'official' AND user = (SELECT id FROM users WHERE name = ?)
        """,
        (name,),
    )
    connection.execute(
        """
        UPDATE users SET source = CASE WHEN password IS NULL THEN 'former' ELSE 'own' END
        WHERE name = ?
        """,
        (name,),
    )


def _without_official_device(connection: sqlite3.Connection) -> list[int]:
    rows = connection.execute(
        """
        SELECT id FROM users
        WHERE source = 'environment' AND NOT EXISTS (
            SELECT 1 FROM devices WHERE devices.user = users.id AND kind = 'official'
        )
        """
    )
    return [row[0] for row in rows.fetchall()]


def _insert_official_devices(connection: sqlite3.Connection, now: int) -> None:
    connection.executemany(
        "INSERT INTO devices (user, kind, created) VALUES (?, 'official', ?)",
        [(user, now) for user in _without_official_device(connection)],
    )


# --- values -----------------------------------------------------------------------------


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _binding(key: str, password: str) -> bytes:
    return hmac.digest(
        key.encode("utf-8", "surrogatepass"), password.encode("utf-8", "surrogatepass"), "sha256"
    )


def _is_bound(binding: bytes | None, key: str, password: str) -> bool:
    return binding is not None and hmac.compare_digest(_binding(key, password), binding)


def _checked_password(password: str) -> str:
    if not password:
        raise AccountError("the password must not be empty")
    return password


def _storable(name: str) -> bool:
    """Whether SQLite takes the text at all: JSON can hold halves of surrogate pairs."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _time(now: float | None) -> float:
    return time.time() if now is None else now
