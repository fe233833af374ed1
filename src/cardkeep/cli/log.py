# SPDX-License-Identifier: AGPL-3.0-or-later
"""The log: one line per event, to standard error."""

import logging
import sys
import time


class Formatter(logging.Formatter):
    """`2026-01-31 18:05:09 +0100 WARNING login failed user='ana' address=203.0.113.7`.

    What came from outside cannot begin a line of its own: control characters are escaped, and
    a traceback's lines are marked.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        moment = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(record.created))
        text = f"{moment} {record.levelname} {_one_line(record.getMessage())}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            text += "".join(f"\n  | {_one_line(line)}" for line in trace.splitlines())
        return text


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def set_up(level: str) -> None:
    """Makes all loggers write to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn tells of each start and stop, which is said in other words already.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
