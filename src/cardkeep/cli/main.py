# SPDX-License-Identifier: AGPL-3.0-or-later
"""The program `cardkeep`: finds the command, and turns errors into one line."""

import importlib
import os
import sqlite3
import sys
from collections.abc import Sequence

import click

import cardkeep
from cardkeep.errors import CardkeepError, SettingsError

# A command's module is imported only when it is used: the server needs none of the others.
COMMANDS = {
    "serve": ("cardkeep.cli.serve", "serve"),
    "user": ("cardkeep.cli.user", "user"),
    "check": ("cardkeep.cli.check", "check"),
    "device": ("cardkeep.cli.device", "device"),
    "backup": ("cardkeep.cli.backup", "backup"),
    "snapshot": ("cardkeep.cli.snapshot", "snapshot"),
    "history": ("cardkeep.cli.history", "history"),
    "migrate": ("cardkeep.cli.migrate", "migrate"),
    "export": ("cardkeep.cli.export", "export"),
    "import": ("cardkeep.cli.import_", "import_"),
}
GROUP_FLAGS = {"--help", "-h", "--version"}


class Commands(click.Group):
    """A group that knows its commands by name only."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(cardkeep.__version__, prog_name="cardkeep")
def program() -> None:
    """A sync server for Anki. Without a command it serves."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program and exits: 0 done, 1 not possible, 2 a wrong flag or setting."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # `python -m cardkeep` serves, as `python -m anki.syncserver` does.
    if not given or (given[0].startswith("-") and given[0] not in GROUP_FLAGS):
        given.insert(0, "serve")
    try:
        program.main(given, prog_name="cardkeep", standalone_mode=False)
    except SettingsError as error:
        _leave(str(error), 2)
    except CardkeepError as error:
        _leave(str(error), 1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _leave("stopped", 130)
    except BrokenPipeError:
        # `cardkeep user list | head`: nobody reads any more, so nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (OSError, sqlite3.Error) as error:
        _leave(str(error), 1)


def _leave(text: str, status: int) -> None:
    click.echo(f"cardkeep: {text}", err=True)
    sys.exit(status)
