# SPDX-License-Identifier: AGPL-3.0-or-later
# ruff: noqa: RUF009 - `_setting` is a `dataclasses.field` that carries the table's line
"""The table of settings: class `Settings`, one line each.

Flags of `cardkeep serve`, environment, configuration file, `--help` and docs/settings.md all
come from it. A value is looked for in this order: flag, environment (the names from left
to right), configuration file, default. An environment variable that is set but empty
counts as not set.

Read by `cli` and `app` only; every other room receives plain values.
"""

import dataclasses
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cardkeep.accounts.names import check_name
from cardkeep.accounts.passwords import check_phc
from cardkeep.errors import CardkeepError, SettingsError

MIB = 1024 * 1024
CONFIG_ENVIRONMENT = "CARDKEEP_CONFIG"
# The official server asks only whether the variable exists: an empty one, "0" and "false"
# switch it on too.
HASHED_ENVIRONMENT = ("CARDKEEP_PASSWORDS_HASHED", "PASSWORDS_HASHED")
USER_VARIABLE = re.compile(r"(CARDKEEP|SYNC)_USER([0-9]+)(_FILE)?")
# CARDKEEP_USER or SYNC_USER without a number is a likely slip, and would be ignored silently.
UNNUMBERED = ("CARDKEEP_USER", "SYNC_USER")


# --- kinds of values --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """How a text becomes a value. `parse` raises ValueError for what it cannot take."""

    expects: str
    metavar: str
    parse: Callable[[str], Any]


def _folder(text: str) -> Path:
    if "\0" in text:
        raise ValueError
    return Path(text).expanduser().absolute()


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(part.strip().removeprefix("[").removesuffix("]") for part in text.split(","))
    if not all(re.fullmatch(r"[0-9A-Za-z_.:%-]+", host) for host in hosts):
        raise ValueError
    return hosts


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return parse


_UNITS = {"": MIB, "k": 1024, "m": MIB, "g": 1024 * MIB, "t": 1024 * 1024 * MIB}


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})\s*([kmgt]?)(i?b)?", text.casefold())
    if not match or int(match[1]) == 0:
        raise ValueError
    return int(match[1]) * _UNITS[match[2]]


_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True} | {
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def _boolean(text: str) -> bool:
    try:
        return _BOOLEANS[text.casefold()]
    except KeyError:
        raise ValueError from None


# The official server's names (values of SYNC_IP_HEADER) without "-" and "_", lower case.
_IP_HEADERS: dict[str, str | None] = {
    "connectinfo": None,
    "rightmostxforwardedfor": "x-forwarded-for",
    "xforwardedfor": "x-forwarded-for",
    "rightmostforwarded": "forwarded",
    "forwarded": "forwarded",
    "xrealip": "x-real-ip",
    "cfconnectingip": "cf-connecting-ip",
    "cloudfrontvieweraddress": "cloudfront-viewer-address",
    "flyclientip": "fly-client-ip",
    "trueclientip": "true-client-ip",
    "xenvoyexternaladdress": "x-envoy-external-address",
}


def _ip_header(text: str) -> str | None:
    known = re.sub("[-_]", "", text).casefold()
    if known in _IP_HEADERS:
        return _IP_HEADERS[known]
    # Asking for a "-" keeps a misspelt name from being taken for a header that never comes.
    if re.fullmatch(r"[0-9A-Za-z]+(-[0-9A-Za-z]+)+", text):
        return text.lower()
    raise ValueError


def _level(text: str) -> str:
    if text.casefold() not in {"debug", "info", "warning", "error"}:
        raise ValueError
    return text.casefold()


def _guard(text: str) -> str:
    if text.casefold() not in {"off", "warn", "refuse"}:
        raise ValueError
    return text.casefold()


def _size_or_none(text: str) -> int:
    return 0 if text == "0" else _size(text)


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError
    return text.rstrip("/") + "/"


FOLDER = Kind("a folder", "FOLDER", _folder)
HOSTS = Kind("an IP address or host name, or several separated by commas", "ADDRESS", _hosts)
PORT = Kind("a number from 0 to 65535", "PORT", _number(0, 65535))
WORKERS = Kind("a number from 1 to 64", "N", _number(1, 64))
SIZE = Kind("a size in MiB such as 100, or with a unit such as 2G", "SIZE", _size)
BOOLEAN = Kind("true or false", "BOOLEAN", _boolean)
IP_HEADER = Kind(
    "ConnectInfo, RightmostXForwardedFor, XRealIp, CfConnectingIp and the like, "
    "or a header's name such as X-Client-IP",
    "HEADER",
    _ip_header,
)
LEVEL = Kind("debug, info, warning or error", "LEVEL", _level)
COUNT = Kind("a number from 0 to 100000", "N", _number(0, 100_000))
DAYS = Kind("a number of days from 0 to 36500", "DAYS", _number(0, 36_500))
PERCENT = Kind("a number from 0 to 100", "PERCENT", _number(0, 100))
ROOM = Kind("a size in MiB, one with a unit such as 2G, or 0", "SIZE", _size_or_none)
GUARD = Kind("off, warn or refuse", "GUARD", _guard)
URL = Kind("an address such as https://anki.example.org/", "URL", _url)


# --- the table --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """What the table says of one setting; `default` is the text shown to people."""

    kind: Kind
    default: str
    environment: tuple[str, ...]
    help: str
    secret: bool = False


@dataclass(frozen=True, slots=True)
class EnvironmentUser:
    """A user given by the environment; `password` is plain, or a PHC string if hashed."""

    name: str
    password: str = dataclasses.field(repr=False)
    source: str


def _setting(
    kind: Kind, default: str, environment: Sequence[str], text: str, *, secret: bool = False
) -> Any:
    line = Setting(kind, default, tuple(environment), text, secret)
    return dataclasses.field(metadata={"setting": line})


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its value; `load` makes one. Sizes are in bytes."""

    folder: Path = _setting(
        FOLDER,
        "~/.syncserver",
        ("CARDKEEP_FOLDER", "SYNC_BASE", "FOLDER"),
        "Folder that holds the accounts and one folder per user. The default is the official "
        "server's, so that an existing one is simply served.",
    )
    host: tuple[str, ...] | None = _setting(
        HOSTS,
        "",
        ("CARDKEEP_HOST", "SYNC_HOST", "HOST"),
        "Address to listen on. Default: all, IPv4 and IPv6; with --open this machine only.",
    )
    port: int = _setting(
        PORT,
        "8080",
        ("CARDKEEP_PORT", "SYNC_PORT", "PORT"),
        "Port to listen on; 0 takes any free one, which is printed.",
    )
    workers: int = _setting(
        WORKERS,
        "1",
        ("CARDKEEP_WORKERS",),
        "Number of server processes. One serves hundreds of people.",
    )
    open: bool = _setting(
        BOOLEAN,
        "false",
        ("CARDKEEP_OPEN",),
        "Accept any name with any password, a collection for each name. For private networks "
        "only. A name that has an account keeps its password.",
    )
    ip_header: str | None = _setting(
        IP_HEADER,
        "ConnectInfo",
        ("CARDKEEP_IP_HEADER", "SYNC_IP_HEADER"),
        "Header in which a reverse proxy gives the client's address; ConnectInfo means there is "
        "no proxy. Of a list the rightmost address counts. Only set it behind a proxy that "
        "writes the header itself: otherwise anybody can claim any address.",
    )
    public_url: str | None = _setting(
        URL,
        "",
        ("CARDKEEP_PUBLIC_URL",),
        "The address that people enter, if a reverse proxy gives the server another one; shown "
        "at the start.",
    )
    max_body: int = _setting(
        SIZE,
        "1024",
        ("CARDKEEP_MAX_BODY", "MAX_SYNC_PAYLOAD_MEGS"),
        "Largest request as it arrives (compressed).",
    )
    max_collection: int = _setting(
        SIZE,
        "4G",
        ("CARDKEEP_MAX_COLLECTION",),
        "Largest collection, uncompressed.",
    )
    max_json: int = _setting(
        SIZE,
        "100",
        ("CARDKEEP_MAX_JSON",),
        "Largest part of a normal sync, uncompressed: a few hundred notes, say. Such a part is "
        "held in memory, one at a time.",
    )
    max_media_file: int = _setting(
        SIZE,
        "100",
        ("CARDKEEP_MAX_MEDIA_FILE",),
        "Largest media file. Clients send no file above 100 MiB.",
    )
    max_media_zip: int = _setting(
        SIZE,
        "128",
        ("CARDKEEP_MAX_MEDIA_ZIP",),
        "Largest zip of media files in one request, packed and unpacked. Clients stop at the "
        "file that passes 2.5 MiB, so one file may be above it.",
    )
    daily_copy: bool = _setting(
        BOOLEAN,
        "true",
        ("CARDKEEP_DAILY_COPY",),
        "Keep a copy of each collection before the first sync of a day that changes it.",
    )
    keep_newest: int = _setting(
        COUNT,
        "10",
        ("CARDKEEP_KEEP_NEWEST",),
        "How many of the newest copies of a user are kept, whatever their age.",
    )
    keep_days: int = _setting(
        COUNT,
        "14",
        ("CARDKEEP_KEEP_DAYS",),
        "For how many days the last copy of each day is kept.",
    )
    keep_weeks: int = _setting(
        COUNT,
        "8",
        ("CARDKEEP_KEEP_WEEKS",),
        "For how many weeks the last copy of each week is kept.",
    )
    keep_months: int = _setting(
        COUNT,
        "12",
        ("CARDKEEP_KEEP_MONTHS",),
        "For how many months the last copy of each month is kept.",
    )
    keep_destructive_days: int = _setting(
        DAYS,
        "30",
        ("CARDKEEP_KEEP_DESTRUCTIVE_DAYS",),
        "How long a copy is kept that was taken before a step which replaced or deleted much.",
    )
    keep_size: int = _setting(
        ROOM,
        "4G",
        ("CARDKEEP_KEEP_SIZE",),
        "Most room that the copies of one user take; the oldest go first, but never pinned ones or "
        "the newest three. 0: no bound.",
    )
    shrink_guard: str = _setting(
        GUARD,
        "warn",
        ("CARDKEEP_SHRINK_GUARD",),
        "What happens to an upload that holds far less than what it replaces. warn: it is taken, "
        "the copy of what was there is pinned, and the user is told. refuse: it is refused in "
        "words, unless `cardkeep snapshot allow` allowed it. off: nothing of this.",
    )
    shrink_percent: int = _setting(
        PERCENT,
        "50",
        ("CARDKEEP_SHRINK_PERCENT",),
        "An upload holds far less if it has less than this share of the stored cards or reviews…",
    )
    shrink_least: int = _setting(
        COUNT,
        "100",
        ("CARDKEEP_SHRINK_LEAST",),
        "…and at least this many fewer.",
    )
    deletion_percent: int = _setting(
        PERCENT,
        "20",
        ("CARDKEEP_DELETION_PERCENT",),
        "A copy is kept before a sync that deletes more than this share of the notes or cards…",
    )
    deletion_least: int = _setting(
        COUNT,
        "100",
        ("CARDKEEP_DELETION_LEAST",),
        "…and more than this many.",
    )
    history_size: int = _setting(
        SIZE,
        "4",
        ("CARDKEEP_HISTORY_SIZE",),
        "Most room that the history of one user takes; the older half goes when it is full. A "
        "sync is a line of some 300 bytes.",
    )
    history_days: int = _setting(
        DAYS,
        "400",
        ("CARDKEEP_HISTORY_DAYS",),
        "How old the rows are that a user's history shows.",
    )
    trash_days: int = _setting(
        DAYS,
        "30",
        ("CARDKEEP_TRASH_DAYS",),
        "How long the bytes of deleted and replaced media files are kept, for a restore to bring "
        "back; 0 keeps none. They take their room on the disk for as long.",
    )
    share_media: bool = _setting(
        BOOLEAN,
        "false",
        ("CARDKEEP_SHARE_MEDIA",),
        "Media files that several users have take their room on the disk once (hard links). Off, "
        "because the official server writes into the files that it replaces: after the way back to "
        "it, one user's new picture would be everybody's.",
    )
    log_level: str = _setting(
        LEVEL,
        "info",
        ("CARDKEEP_LOG_LEVEL",),
        "How much is logged, to standard error.",
    )
    users: tuple[EnvironmentUser, ...] = ()
    passwords_hashed: bool = False
    warnings: tuple[str, ...] = ()


def table() -> Iterator[tuple[str, Setting]]:
    """Name and line of each setting, in the order of the table."""
    for field in dataclasses.fields(Settings):
        if "setting" in field.metadata:
            yield field.name, field.metadata["setting"]


def flag(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + name.replace("_", "-")


# --- reading ----------------------------------------------------------------------------


def load(flags: Mapping[str, str | None], environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from flags (names as in the table, and `config`), environment and file.

    Raises SettingsError, which names the key, the value, its source and what is expected.
    """
    environment = os.environ if environment is None else environment
    file, file_source = _read_file(flags.get("config"), environment)
    values: dict[str, Any] = {}
    for name, setting in table():
        text, source = _find(name, setting, flags, environment, file, file_source)
        values[name] = _parse(name, setting, text, source)
    warnings: list[str] = []
    hashed = _hashed(environment, file, file_source, warnings)
    values["users"] = tuple(_users(environment, file, file_source, hashed, warnings))
    return Settings(**values, passwords_hashed=hashed, warnings=tuple(warnings))


def _find(
    name: str,
    setting: Setting,
    flags: Mapping[str, str | None],
    environment: Mapping[str, str],
    file: Mapping[str, Any],
    file_source: str,
) -> tuple[str, str]:
    given = flags.get(name)
    if given is not None:
        return given, f"flag {flag(name)}"
    for variable in setting.environment:
        if environment.get(variable):
            return environment[variable], f"environment variable {variable}"
        if setting.secret and environment.get(variable + "_FILE"):
            variable += "_FILE"
            return read_secret(variable, environment[variable]), f"environment variable {variable}"
    if name in file:
        return _file_text(name, file[name], file_source), file_source
    return setting.default, "default"


def _parse(name: str, setting: Setting, text: str, source: str) -> Any:
    if text == "" and source == "default":
        return None
    try:
        return setting.kind.parse(text.strip())
    except (ValueError, RuntimeError):  # RuntimeError: "~" without a home folder
        shown = "***" if setting.secret else _shown(text)
        raise SettingsError(
            f"{name}: {shown} ({source}) cannot be used; expected {setting.kind.expects}"
        ) from None


def _shown(text: str) -> str:
    text = text if len(text) <= 200 else text[:200] + "…"
    return repr(text)


def _read_file(given: str | None, environment: Mapping[str, str]) -> tuple[Mapping[str, Any], str]:
    path = given or environment.get(CONFIG_ENVIRONMENT)
    if not path:
        return {}, ""
    source = "flag --config" if given else f"environment variable {CONFIG_ENVIRONMENT}"
    import tomllib  # only here: most servers have no such file

    try:
        content = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"config: {path!r} ({source}): {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"config: {path!r} ({source}) is not TOML: {error}") from None
    known = {name for name, _ in table()} | {"users", "passwords_hashed"}
    for key in content:
        if key not in known:
            raise SettingsError(
                f"{key}: no such setting (file {path}); expected one of {', '.join(sorted(known))}"
            )
    return content, f"file {path}"


def _file_text(name: str, value: object, source: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    raise SettingsError(f"{name}: {value!r} ({source}) cannot be used; expected text or a number")


def read_secret(source: str, path: str) -> str:
    """The content of a secret's file, without the newline that editors put at the end."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{source}: {path!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{source}: {path!r} is not text in UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")


# --- users ------------------------------------------------------------------------------


def _hashed(
    environment: Mapping[str, str], file: Mapping[str, Any], source: str, warnings: list[str]
) -> bool:
    for variable in HASHED_ENVIRONMENT:
        if variable in environment:
            if _BOOLEANS.get(environment[variable].casefold()) is False:
                warnings.append(
                    f"{variable} is set, so passwords are taken as hashes; its value "
                    f"{environment[variable]!r} means nothing, as with the official server"
                )
            return True
    value = file.get("passwords_hashed", False)
    if not isinstance(value, bool):
        raise SettingsError(
            f"passwords_hashed: {value!r} ({source}) cannot be used; expected true or false"
        )
    return value


def _users(
    environment: Mapping[str, str],
    file: Mapping[str, Any],
    file_source: str,
    hashed: bool,
    warnings: list[str],
) -> Iterator[EnvironmentUser]:
    seen: dict[str, str] = {}
    for source, text in _user_texts(environment, file, file_source, warnings):
        user = _user(source, text, hashed)
        if user.name in seen:
            warnings.append(
                f"{source} names {user.name!r} again and is ignored; {seen[user.name]} counts"
            )
            continue
        seen[user.name] = source
        yield user


def _user_texts(
    environment: Mapping[str, str], file: Mapping[str, Any], file_source: str, warnings: list[str]
) -> Iterator[tuple[str, str]]:
    variables: dict[tuple[str, int], str] = {}
    for variable in sorted(environment):
        match = USER_VARIABLE.fullmatch(variable)
        if not match or not environment[variable]:
            continue
        place = (match[1], int(match[2]))
        if place in variables:
            raise SettingsError(f"{variable} and {variables[place]} are both set; expected one")
        variables[place] = variable
    for variable in UNNUMBERED:
        if environment.get(variable):
            warnings.append(f"{variable} is ignored: it needs a number, as in {variable}1")
    for prefix in ("CARDKEEP", "SYNC"):
        expected = 1
        for number in sorted(number for given, number in variables if given == prefix):
            if number > expected:
                missing = f"{prefix}_USER{expected}"
                warnings.append(
                    f"{missing} is not set but {prefix}_USER{number} is; it is honoured all the "
                    "same (the official server would stop at the gap)"
                )
            expected = number + 1
            variable = variables[prefix, number]
            text = environment[variable]
            yield variable, read_secret(variable, text) if variable.endswith("_FILE") else text
    users = file.get("users", {})
    if not isinstance(users, dict) or not all(isinstance(value, str) for value in users.values()):
        raise SettingsError(
            f'users ({file_source}) cannot be used; expected a table of name = "password"'
        )
    for name, password in users.items():
        yield file_source, f"{name}:{password}"


def _user(source: str, text: str, hashed: bool) -> EnvironmentUser:
    name, colon, password = text.partition(":")
    if not colon or not password:
        raise SettingsError(f"{source}: expected name:password")
    try:
        if hashed:
            check_phc(password)
        # The official key is made of the text as it was given; that is why the name is
        # normalised here only for the folder, and refused if that changes it.
        if check_name(name) != name:
            raise SettingsError(
                f"{source}: user name {name!r} is written with combining characters; expected "
                f"{unicodedata.normalize('NFC', name)!r} (Unicode NFC)"
            )
    except SettingsError:
        raise
    except CardkeepError as error:
        raise SettingsError(f"{source}: {error}") from None
    return EnvironmentUser(name, password, source)
