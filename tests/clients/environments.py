# SPDX-License-Identifier: AGPL-3.0-or-later
"""One virtualenv per Anki release, made when first asked for and kept.

They live under ``$CARDKEEP_TEST_ENVS`` or ``~/.cache/cardkeep-tests``. An environment appears
whole or not at all, several test processes may ask for the same one at once, and one whose
recipe has changed is made anew.
"""

import argparse
import fcntl
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

# What every release imports.
COMMON = (
    "certifi",
    "charset-normalizer",
    "decorator==5.1.1",
    "distro==1.9.0",
    "idna",
    "orjson>=3.9,<4",
    "requests>=2.31,<3",
    "typing-extensions>=4.8",
    "urllib3>=2,<3",
)
# Releases before 25.9 parse HTML in Python.
HTML = ("beautifulsoup4>=4.12,<5", "soupsieve>=2.5,<3")
MARKDOWN = ("markdown>=3.5,<4",)

# The generated protobuf modules of each release need a runtime of their time. The wheels are
# abi3, so that even the oldest runs on a current Python; they are installed without their own
# requirements, which ask for more (and newer) than `anki.collection` uses.
RELEASES: dict[str, tuple[str, ...]] = {
    # schema 15, protocol 10, endpoints from the environment, reviews stored twice if sent twice
    "2.1.39": ("protobuf==3.20.3", *HTML, *COMMON),
    # the last with schema 11 at rest
    "2.1.49": ("protobuf==3.20.3", "stringcase==1.2.0", *HTML, *MARKDOWN, *COMMON),
    # the last engine of protocol 10 (with 2.1.55 and 2.1.56)
    "2.1.54": ("protobuf==4.25.8", *HTML, *MARKDOWN, *COMMON),
    "2.1.56": ("protobuf==4.25.8", *HTML, *MARKDOWN, *COMMON),
    # protocol 11, media sync within the call
    "2.1.60": ("protobuf==4.25.8", *HTML, *MARKDOWN, *COMMON),
    "2.1.66": ("protobuf==4.25.8", *HTML, *MARKDOWN, *COMMON),
    # FSRS, image occlusion, media sync in the background
    "23.12": ("protobuf==4.25.8", *HTML, *MARKDOWN, *COMMON),
    "24.6.3": ("protobuf==4.25.8", *HTML, *MARKDOWN, *COMMON),
    "24.11": ("protobuf==4.25.8", *HTML, *MARKDOWN, *COMMON),
    "25.2.7": ("protobuf==4.25.8", *HTML, *MARKDOWN, *COMMON),
    "25.9.2": ("protobuf==6.33.0", *MARKDOWN, *COMMON),
    "26.9.3": ("protobuf==6.33.0", *MARKDOWN, *COMMON),
}
NEWEST = "26.9.3"


def cache() -> Path:
    """The folder that holds the environments."""
    chosen = os.environ.get("CARDKEEP_TEST_ENVS")
    return Path(chosen) if chosen else Path.home() / ".cache" / "cardkeep-tests"


@functools.cache
def interpreter(release: str) -> Path:
    """The Python of the environment that has this Anki release; makes it if need be."""
    home = cache() / f"anki-{release}"
    recipe = json.dumps([sys.version_info[:2], release, RELEASES[release]])
    if _ready(home, recipe):
        return _python(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _ready(home, recipe):
            _make(home, recipe, [f"anki=={release}", *RELEASES[release]])
    return _python(home)


def _python(home: Path) -> Path:
    return home / "bin" / "python"


def _ready(home: Path, recipe: str) -> bool:
    try:
        return (home / "recipe").read_text() == recipe and _python(home).exists()
    except FileNotFoundError:
        return False


def _make(home: Path, recipe: str, requirements: list[str]) -> None:
    making = home.with_name(f"{home.name}.making")
    for leftover in (making, home):
        if leftover.exists():
            shutil.rmtree(leftover)
    # One pip serves all environments where the tests' own has one.
    shared_pip = importlib.util.find_spec("pip") is not None
    _run(sys.executable, "-m", "venv", *(["--without-pip"] if shared_pip else []), making)
    pip = (
        (sys.executable, "-m", "pip", "--python") if shared_pip else (_python(making), "-m", "pip")
    )
    _run(
        *pip,
        *([_python(making)] if shared_pip else []),
        "install",
        "-q",
        "--no-deps",
        "--disable-pip-version-check",
        *requirements,
    )
    _run(_python(making), "-c", "from anki.collection import Collection")
    (making / "recipe").write_text(recipe)
    making.rename(home)


def _run(*command: object) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stdout}")


def main() -> None:
    """Makes the named environments, or all: ``python tests/clients/environments.py [VERSION…]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("releases", nargs="*", metavar="VERSION")
    for release in parser.parse_args().releases or RELEASES:
        print(interpreter(release))


if __name__ == "__main__":
    main()
