# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep history`: what happened to a user's collection and account, and when."""

import itertools
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

import click
import msgspec

from cardkeep.backups import history as rows_of
from cardkeep.backups.history import Kind, Numbers, Row
from cardkeep.cli.options import options
from cardkeep.cli.recording import history_of, now_ms
from cardkeep.cli.user import opened
from cardkeep.errors import AccountError

if TYPE_CHECKING:
    from rich.text import Text

_SHOWN = 50

_UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")


def _since(_ctx: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    """A date, or how long ago, as ms since 1970."""
    if text is None:
        return None
    if match := re.fullmatch(r"([0-9]{1,6})([mhdw])", text):
        return now_ms() - int(match[1]) * _UNIT_MS[match[2]]
    for form in _DATES:
        with suppress(ValueError, OverflowError):
            return int(datetime.strptime(text, form).astimezone().timestamp() * 1000)
    raise click.BadParameter(f"{text!r}; expected a date such as 2026-11-25, or 12h, 7d, 3w")


@click.command()
@click.argument("user")
@click.option("--json", "as_json", is_flag=True, help="For programs: times in ms since 1970.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"At most so many rows; 0 for all. [default: {_SHOWN}; with --json all]",
)
@click.option(
    "--since",
    callback=_since,
    metavar="TIME",
    help="Only what happened since then: a date (2026-11-25, 2026-11-25 19:05) or how long ago "
    "(12h, 7d, 3w).",
)
@options("folder")
def history(
    user: str,
    as_json: bool,
    limit: int | None,
    since: int | None,
    config: str | None,
    folder: str | None,
) -> None:
    """Show what happened to a user, newest first.

    Each sync, upload and download is a row, each upload of media, each login, and each change by
    command: when it was, which device it was, what it added, changed and deleted, the bytes that
    came in and went out, how long it took, and the copy that was kept for it. It does not
    matter whether the server runs.
    """
    file, place = history_of(config, folder, user)
    if not place.root.is_dir():
        _must_exist(config, folder, place.root.name)
    rows = rows_of.gathered(file.rows(place, now_ms()))
    if since is not None:
        rows = (row for row in rows if row.time >= since)
    if limit is None:
        limit = 0 if as_json else _SHOWN
    shown = itertools.islice(rows, limit) if limit else rows
    if as_json:
        _print_json(shown)
    else:
        _print_table(user, list(shown), more=next(rows, None) is not None)


def _must_exist(config: str | None, folder: str | None, name: str) -> None:
    with opened(config, folder) as store:
        if all(user.name != name for user in store.users()):
            raise AccountError(f"there is no user {name}")


def _print_json(rows: Iterable[Row]) -> None:
    """An array, a row a line, written as it is read; every field is in every row."""
    before = "[\n"
    for row in rows:
        fields = {
            name: msgspec.structs.asdict(value) if isinstance(value, Numbers) else value
            for name, value in msgspec.structs.asdict(row).items()
        }
        click.echo(before + msgspec.json.encode(fields).decode(), nl=False)
        before = ",\n"
    click.echo("[]" if before == "[\n" else "\n]")


# --- for people -------------------------------------------------------------------------


def _print_table(user: str, rows: list[Row], *, more: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        click.echo(f"nothing is written down for {user}")
        return
    clients = _clients(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("when", no_wrap=True)
    table.add_column("device")
    table.add_column("what happened")
    for row in rows:
        device = Text(_device(row, clients.get(row.device, "")))
        table.add_row(_when(row.time), device, _deed(row))
    # As wide as it needs to be when nobody looks at it on a terminal.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
    if more:
        click.echo(f"\nThere is more: these are the newest {len(rows)} rows; --limit 0 shows all.")


def _deed(row: Row) -> "Text":
    """What happened and what it changed; then, less loudly, what it cost."""
    from rich.text import Text

    changes = _changes(row)
    text = Text(_WORDS.get(row.kind, _harmless(row.kind)), style="bold")
    text.append(f": {changes}" if changes else "", style="not bold")
    if row.copy:
        kept = "" if row.kind == Kind.COPY_DELETED else " kept"
        text.append(f" · copy {_harmless(row.copy)}{kept}", style="not bold")
    cost = [
        f"{_bytes(row.received)} in" if row.received else "",
        f"{_bytes(row.sent)} out" if row.sent else "",
        _duration(row.took) if row.took else "",
    ]
    text.append("".join(f" · {part}" for part in cost if part), style="not bold dim")
    return text


_WORDS: dict[str, str] = {
    Kind.SYNC: "sync",
    Kind.UPLOAD: "upload of everything",
    Kind.DOWNLOAD: "download of everything",
    Kind.MEDIA: "media sync",
    Kind.LOGIN: "login",
    Kind.REVOKE: "logged out by command",
    Kind.PASSWORD: "password changed",
    Kind.DISABLE: "user disabled",
    Kind.ENABLE: "user enabled",
    Kind.REMOVE: "user removed",
    Kind.RESTORE: "restored from a copy",
    Kind.IMPORT: "imported",
    Kind.REPAIR: "mended by command",
    Kind.COPY_DELETED: "copy deleted",
}
_REPLACING = {Kind.UPLOAD, Kind.RESTORE, Kind.IMPORT}
_NAMES = {
    "notes": "note",
    "cards": "card",
    "reviews": "review",
    "media": "media file",
    "decks": "deck",
    "notetypes": "notetype",
    "deck_configs": "deck preset",
    "tags": "tag",
}


def _clients(rows: Iterable[Row]) -> dict[str, str]:
    """What each device said of itself last: old clients do not say it when they log in."""
    found: dict[str, str] = {}
    for row in rows:
        if row.client:
            found.setdefault(row.device, row.client)
    return found


def _device(row: Row, known: str) -> str:
    """Version and system, the number that `cardkeep device` knows, and the address."""
    parts = [_client(row.client or known)]
    if row.device:
        parts.append(f"(device {row.device})" if parts[0] else f"device {row.device}")
    if row.address:
        parts.append(f"from {row.address}")
    return _harmless(" ".join(filter(None, parts)))


def _client(text: str) -> str:
    """`26.09.3 linux` of `26.09.3,29bb700b,linux`, and the like of `anki,2.1.54 (b2e),lin`."""
    parts = text.removeprefix("anki,").split(",")
    if len(parts) == 3:
        del parts[1]
    return " ".join(re.sub(r" \([0-9a-f]+\)", "", part) for part in parts)


def _changes(row: Row) -> str:
    counted = any(getattr(row, name) != rows_of.NONE for name in rows_of.COUNTED)
    parts: list[str] = []
    if counted:
        parts += _replacement(row) if row.kind in _REPLACING else _difference(row)
    elif row.kind == Kind.SYNC:
        parts.append("nothing new from this device")
    if row.note:
        parts.append(_harmless(row.note))
    return "; ".join(parts)


def _difference(row: Row) -> Iterator[str]:
    """`+12 notes, +40 reviews; 3 cards changed; −3 cards`."""
    counted = [(name, getattr(row, name)) for name in rows_of.COUNTED]
    yield from _sentence("+{}", [(name, one.added) for name, one in counted])
    yield from _sentence("{} changed", [(name, one.changed) for name, one in counted])
    yield from _sentence("−{}", [(name, one.deleted) for name, one in counted])


def _replacement(row: Row) -> Iterator[str]:
    counted = [(name, getattr(row, name)) for name in ("notes", "cards", "reviews")]
    now = ", ".join(_some(name, one.added) for name, one in counted)
    before = ", ".join(_some(name, one.deleted) for name, one in counted)
    yield f"now {now}"
    yield f"before {before}"


def _sentence(form: str, numbers: Iterable[tuple[str, int]]) -> Iterator[str]:
    parts = [form.format(_some(name, number)) for name, number in numbers if number]
    if parts:
        yield ", ".join(parts)


def _some(name: str, number: int) -> str:
    return f"{number:,} {_NAMES[name]}{'' if number == 1 else 's'}"


def _when(time_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ms / 1000))


def _bytes(number: int) -> str:
    if number < 1000:
        return f"{number} B"
    if number < 999_500:
        return f"{number / 1000:.0f} kB"
    return f"{number / 1_000_000:,.1f} MB"


def _duration(ms: int) -> str:
    if ms < 1000:
        return f"{ms} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes} min {seconds} s"


def _harmless(text: str) -> str:
    """Without characters that would do something to the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
