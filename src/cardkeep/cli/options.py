# SPDX-License-Identifier: AGPL-3.0-or-later
"""Command-line flags made from the table of settings."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from cardkeep import settings

F = TypeVar("F", bound=Callable[..., Any])


def options(*names: str) -> Callable[[F], F]:
    """Adds `--config` and the flags of these settings (of all, if none is named)."""

    def decorate(function: F) -> F:
        chosen = [line for line in settings.table() if not names or line[0] in names]
        for name, setting in reversed(chosen):
            function = _option(name, setting)(function)
        return click.option(
            "--config",
            metavar="FILE",
            help=f"TOML file with settings; environment: {settings.CONFIG_ENVIRONMENT}.",
        )(function)

    return decorate


def _option(name: str, setting: settings.Setting) -> Callable[[F], F]:
    notes = [f"environment: {', '.join(setting.environment)}"]
    if setting.default:
        notes.insert(0, f"default: {setting.default}")
    text = f"{setting.help} [{'; '.join(notes)}]"
    if setting.kind is settings.BOOLEAN:
        # `--open` alone, but also `--open=false` against an environment that says true.
        return click.option(
            settings.flag(name), name, is_flag=False, flag_value="true", help=text, metavar=""
        )
    return click.option(settings.flag(name), name, metavar=setting.kind.metavar, help=text)
