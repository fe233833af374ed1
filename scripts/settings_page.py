# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes docs/settings.md to standard output, from the table in cardkeep.settings."""

from cardkeep import settings

HEAD = """\
# Settings

Nothing needs to be set. Each setting can be given as a flag of `cardkeep serve`, as an
environment variable, or as a line of a TOML file, named with `--config FILE` or
`CARDKEEP_CONFIG`. The flag counts before the environment, the environment before the file.
Where several variables are listed, the first that is set counts: cardkeep's own name, then the
official server's, then an older one. An empty variable counts as not set.

Sizes are in MiB, or with a unit: `500`, `500M` and `2G`.

(This page is made from the table in `src/cardkeep/settings.py` by `make fix`.)
"""

USERS = """\
## users

Users can be made by command while the server runs (`cardkeep user add NAME`), or be given to it
at its start:

| | |
|---|---|
| Environment | `CARDKEEP_USER1`, `CARDKEEP_USER2` …, `SYNC_USER1`, `SYNC_USER2` … |
| From a file | `CARDKEEP_USER1_FILE`, `SYNC_USER1_FILE` … |
| In the file | a table `[users]` with lines `name = "password"` |
| Default | none |

A value is `name:password`. Every variable may instead be given as the name of a file that holds
the value, with `_FILE` after its name; the newline at the file's end does not count. A gap in the
numbers is warned about, and the users behind it can sync all the same. These users can only be
changed where they are given, and by a restart; another password logs all their devices out.

Devices that were logged in to the official server go on without a new login. Their key is made
of name and password alone; `cardkeep device revoke NAME` ends it for good.

Names become folders: no `/ \\ : * ? " < > |`, no dot at either end, at most 100 bytes, none that
Windows reserves, and none that differs from another only in case.

## passwords_hashed

| | |
|---|---|
| Environment | `CARDKEEP_PASSWORDS_HASHED`, `PASSWORDS_HASHED` |
| In the file | `passwords_hashed = true` |
| Default | `false` |

The passwords of the users above are hashes, PBKDF2 in the PHC form:
`$pbkdf2-sha256$i=600000,l=32$SALT$HASH`, in base64 without `=`. As with the official server
the variable only has to exist: an empty one, `0` and `false` switch it on too. Mind
that shells and compose files give `$` a meaning; a `_FILE` variable avoids that. The official
server's keys are not accepted for these users, since there the hash alone is enough to sync.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    parts += [section(name, setting) for name, setting in settings.table()]
    return "\n".join([*parts, USERS])


def section(name: str, setting: settings.Setting) -> str:
    """One setting: a heading, what it does, and all its names."""
    variables = [
        variable + twin
        for variable in setting.environment
        for twin in (("", "_FILE") if setting.secret else ("",))
    ]
    quotes = "" if setting.kind.parse in (settings.WORKERS.parse, settings.PORT.parse) else '"'
    example = f"{quotes}{setting.default or '…'}{quotes}"
    if setting.kind is settings.BOOLEAN:
        example = "true"
    flag = settings.flag(name)
    if setting.kind is not settings.BOOLEAN:
        flag += f" {setting.kind.metavar}"
    return f"""\
## {name}

{setting.help}

| | |
|---|---|
| Flag | `{flag}` |
| Environment | {", ".join(f"`{variable}`" for variable in variables)} |
| In the file | `{name} = {example}` |
| Default | {f"`{setting.default}`" if setting.default else "not set"} |
| Takes | {setting.kind.expects} |
"""


if __name__ == "__main__":
    print(page(), end="")
