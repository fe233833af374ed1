# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the documents say can be done can be done."""

import re
import shlex
from pathlib import Path

import click
import pytest

from cardkeep.cli.main import program

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Documents that tell of other programs, or of what is not built yet.
FACTS = {"design.md", "sync-protocol.md", "collection-format.md"}


def commands(page: Path) -> list[str]:
    """Each `cardkeep …` in a code span or block."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    found = []
    for line in [*lines, *spans]:
        match = re.match(r"(?:[A-Z_0-9]+=\S+ )*(?:\.venv/bin/)?(cardkeep( .*)?)$", line)
        if match:
            found.append(match[1].partition("  #")[0].replace("…", "").strip())
    return found


CASES = [
    (page.name, command) for page in PAGES if page.name not in FACTS for command in commands(page)
]


def test_there_are_commands() -> None:
    """The search for them finds some."""
    assert len(CASES) > 20


@pytest.mark.parametrize(("page", "command"), CASES)
def test_a_command_of_the_documents_exists(page: str, command: str) -> None:
    """With its flags."""
    words = shlex.split(command)[1:]
    found: click.Command = program
    context = click.Context(program)
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        sub = found.get_command(context, name)
        assert sub is not None, f"{page}: no command {name}"
        found = sub
    known = {flag for option in found.params for flag in (*option.opts, *option.secondary_opts)}
    given = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
    assert given <= known | {"--help", "--version"}, f"{page}: {command}"


LINKS = [
    (page, target)
    for page in PAGES
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    if not re.match(r"https?:|mailto:", target)
]


@pytest.mark.parametrize(("page", "target"), LINKS, ids=lambda value: str(value)[-40:])
def test_a_link_of_the_documents_leads_somewhere(page: Path, target: str) -> None:
    """To a page that is there, and to a heading of it."""
    path, _, anchor = target.partition("#")
    linked = (page.parent / path).resolve() if path else page
    assert linked.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {
            re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
        }
