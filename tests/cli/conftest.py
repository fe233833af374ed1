# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures for tests of the commands."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.serving import CARDKEEP, Serving, environment


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folder that server and commands of the test share; not made yet."""
    return tmp_path / "base"


@pytest.fixture
def serve(tmp_path: Path, base: Path) -> Iterator[Callable[..., Serving]]:
    """Starts `cardkeep serve` with these flags, on a free port of the loopback."""
    with contextlib.ExitStack() as stack:
        number = 0

        def start(*flags: str, command: Any = (*CARDKEEP, "serve"), **extra: str) -> Serving:
            nonlocal number
            number += 1
            folder = tmp_path / f"server{number}"
            folder.mkdir()
            given = {"CARDKEEP_FOLDER": str(base), "CARDKEEP_PORT": "0"}
            given |= {"CARDKEEP_HOST": "127.0.0.1"} | extra
            given = {name: value for name, value in given.items() if value}
            return stack.enter_context(
                contextlib.closing(Serving([*command, *flags], folder, given))
            )

        yield start


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(base: Path) -> Run:
    """Runs a command to its end, on the folder of the test."""

    def run(*arguments: str, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CARDKEEP, *arguments],
            env=environment({"CARDKEEP_FOLDER": str(base)} | extra),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run
