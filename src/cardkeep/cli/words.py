# SPDX-License-Identifier: AGPL-3.0-or-later
"""How commands put times, sizes, numbers and lists in words."""

import sys
import time
from collections.abc import Sequence

import click

from cardkeep.backups.restore import Put

# Names that are told of a kind; more than this help nobody.
_MOST_NAMES = 20
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def when(moment: int | None) -> str:
    """A time for people, in their own time zone."""
    return "never" if moment is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def in_words(size: int) -> str:
    """A number of bytes for people."""
    amount, unit = float(size), 0
    while amount >= 1000 and unit + 1 < len(_UNITS):
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.{1 if unit else 0}f} {_UNITS[unit]}"


def tell_names(names: Sequence[str], what: str) -> None:
    """Lists names on standard error, as many as help somebody."""
    if not names:
        return
    are = "file is" if len(names) == 1 else "files are"
    click.echo(f"cardkeep: {len(names):,} media {are} {what}:", err=True)
    for name in names[:_MOST_NAMES]:
        click.echo(f"  {name!r}", err=True)
    if len(names) > _MOST_NAMES:
        click.echo(f"  and {len(names) - _MOST_NAMES:,} more", err=True)


def tell_replaced(put: Put) -> None:
    """Says where that is which something else was put in the place of."""
    if put.replaced:
        click.echo(f"what it replaced is kept as copy {put.replaced.id}")
    if put.damaged:
        click.echo(f"what it replaced was damaged, and lies in {put.damaged}")
        click.echo("If a device has later work, choose Upload on it first.")


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def show_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Prints a table, as wide as it needs to be when nobody looks at it on a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    width = None if sys.stdout.isatty() else 1000
    Console(width=width, soft_wrap=False).print(table)
