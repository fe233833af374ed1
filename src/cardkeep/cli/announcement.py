# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the server prints at its start: its addresses, and what to enter in which client."""

import shlex
import shutil
import sys
from pathlib import Path

import cardkeep
from cardkeep.cli.addresses import is_loopback
from cardkeep.settings import Settings, flag, load


def text(settings: Settings, urls: list[str], *, has_users: bool) -> str:
    """The whole announcement; `urls` are base URLs with the final slash."""
    parts = [f"cardkeep {cardkeep.__version__} serves {settings.folder}", ""]
    if settings.open:
        parts += [_OPEN, ""]
    parts += [
        "Enter in the client, as the address of a self-hosted sync server:",
        "  new: Anki 2.1.57 and newer, AnkiDroid, AnkiMobile",
        "  old: Anki 2.1.56 and older, as environment variables",
        "(Clients speak of an AnkiWeb account: the name and password are those of this server.)",
        "",
    ]
    public = [settings.public_url] if settings.public_url else []
    for url in [*public, *(url for url in urls if url not in public)]:
        parts += _for_clients(url)
    if not (has_users or settings.open):
        parts += ["There is no user yet. Make the first one (no restart is needed):"]
        parts += [f"  {first_user_command(settings)}", ""]
    return "\n".join(parts)


_OPEN = """\
*** OPEN: anybody who reaches this server can sync, under any name and with any password,
*** and read and change what is stored under every name that has no account.
*** For a private network only. Without --open, names and passwords are checked."""


def _for_clients(url: str) -> list[str]:
    note = "   (from this machine only)" if is_loopback(url) else ""
    return [
        f"  new: {url}{note}",
        f"  old: SYNC_ENDPOINT={url}sync/",
        f"       SYNC_ENDPOINT_MEDIA={url}msync/",
        "",
    ]


def first_user_command(settings: Settings) -> str:
    """The command that makes a user here, as it is called on this machine."""
    beside = Path(sys.executable).with_name("cardkeep")
    if shutil.which("cardkeep"):
        words = ["cardkeep"]
    elif beside.exists():
        words = [str(beside)]
    else:
        words = [sys.executable, "-m", "cardkeep"]
    words += ["user", "add"]
    if settings.folder != load({}, {}).folder:
        words += [flag("folder"), str(settings.folder)]
    return shlex.join([*words, "NAME"])
