# SPDX-License-Identifier: AGPL-3.0-or-later
"""The log's form."""

import logging
import re
import sys

from cardkeep.cli.log import Formatter

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4} WARNING (.*)")


def formatted(message: str, *arguments: object, exc_info: object = None) -> str:
    record = logging.LogRecord(
        "x",
        logging.WARNING,
        "x.py",
        1,
        message,
        arguments,
        exc_info,  # type: ignore[arg-type]
    )
    return Formatter().format(record)


def test_one_line_per_event() -> None:
    """Whatever came from outside: line ends of any kind and terminal codes are escaped."""
    text = formatted("user=%s", "a\nb\r\x1b[0m\u2028\x85é")
    match = LINE.fullmatch(text)
    assert match is not None
    assert match[1] == r"user=a\nb\r\x1b[0m\u2028\x85é"


def test_a_traceback_cannot_pose_as_an_event() -> None:
    """Its lines are marked, and what the exception says stays on its line."""
    try:
        raise ValueError("x\n2026-01-01 00:00:00 +0000 WARNING login failed")
    except ValueError:
        first, *rest = formatted("it broke", exc_info=sys.exc_info()).split("\n")
    assert LINE.fullmatch(first)
    assert len(rest) > 2
    assert all(line.startswith("  | ") for line in rest)
