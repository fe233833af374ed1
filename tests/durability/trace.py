# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads a trace of a server's system calls: what was not yet on disk when an answer was sent."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "read,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,pwritev,pwritev2,sendfile,"
    "copy_file_range,ftruncate,fallocate,openat,creat,mkdir,mkdirat,link,linkat,symlink,symlinkat,"
    "rename,renameat,renameat2,unlink,unlinkat,fsync,fdatasync,sync_file_range,ioctl"
)
# `-D` lets the server be the process that was started, `-y` names the files.
COMMAND = ["strace", "-D", "-f", "-y", "-s", "96", "-e", f"trace={CALLS}", "-e", "signal=none"]

LINE = re.compile(r"^(\d+) +(?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))$", re.DOTALL)
UNFINISHED = " <unfinished ...>"
DESCRIPTOR = re.compile(r"\d+<([^>]*)>")
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
REQUEST = re.compile(r'"(?:POST|GET|HEAD) (\S+) HTTP/1\.1')

WRITES = {
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "ftruncate",
    "fallocate",
    "sendfile",
    "copy_file_range",
}
FLUSHES = {"fsync", "fdatasync"}


@dataclass
class Answer:
    """An answer that the server sent, and what was then in memory alone."""

    method: str
    status: int
    unflushed: set[str]


@dataclass
class Disk:
    """Files whose bytes, and folders whose entries, were changed since they were last flushed."""

    changed: dict[str, int] = field(default_factory=dict)
    step: int = 0

    def change(self, path: str) -> None:
        self.step += 1
        self.changed[path] = self.step

    def flushed(self, path: str, since: int) -> None:
        """A flush that began at step `since` has ended."""
        if self.changed.get(path, since + 1) <= since:
            del self.changed[path]

    def entry(self, path: str) -> None:
        """A name appeared or went in the folder of `path`."""
        self.change(str(Path(path).parent))

    def rename(self, old: str, new: str) -> None:
        """The bytes keep whatever state they are in."""
        state = self.changed.pop(old, None)
        self.changed.pop(new, None)
        if state is not None:
            self.changed[new] = state
        self.entry(old)
        self.entry(new)

    def link(self, old: str, new: str) -> None:
        if old in self.changed:
            self.changed[new] = self.changed[old]
        self.entry(new)

    def unlink(self, path: str) -> None:
        self.changed.pop(path, None)
        self.entry(path)


class Trace:
    """`answers` go through the trace once and say what each answer left behind."""

    def __init__(self, path: Path, existing: set[str]) -> None:
        self._path = path
        self._known = existing
        self._disk = Disk()
        self._begun: dict[str, tuple[str, str, int]] = {}
        self._asked: dict[str, str] = {}

    def answers(self) -> Iterator[Answer]:
        with self._path.open(errors="replace") as lines:
            for line in lines:
                found = LINE.match(line.rstrip("\n"))
                if not found:
                    continue
                process, call, arguments, resumed, rest = found.groups()
                if resumed:
                    call, arguments, step = self._begun.pop(process, (resumed, "", 0))
                    arguments += rest
                elif arguments.endswith(UNFINISHED):
                    arguments = arguments.removesuffix(UNFINISHED)
                    self._begun[process] = (call, arguments, self._disk.step)
                    # What a write may already have done, counts from its beginning.
                    if call not in WRITES:
                        continue
                    step = self._disk.step
                else:
                    step = self._disk.step
                answer = self._one(call, arguments, step)
                if answer:
                    yield answer

    def _one(self, call: str, arguments: str, step: int) -> Answer | None:
        arguments, _, result = (
            arguments.rpartition(" = ") if " = " in arguments else (arguments, "", "0")
        )
        if result.startswith(("-1", "?")):
            return None
        files = DESCRIPTOR.findall(arguments)
        file = files[0] if files else ""
        if file.startswith("socket:"):
            return self._socket(call, file, arguments)
        if call == "ftruncate" and file.endswith("-wal") and arguments.rstrip(")").endswith(" 0"):
            # After a checkpoint; if it comes back, it says what the database file says already.
            self._disk.changed.pop(file, None)
        elif call in WRITES and file:
            self._disk.change(file)
        elif call in FLUSHES:
            self._disk.flushed(file, step)
        elif call in ("openat", "creat"):
            opened = DESCRIPTOR.findall(result)
            if opened and ("O_CREAT" in arguments or call == "creat"):
                if opened[0] not in self._known:
                    self._disk.entry(opened[0])
                if "O_TRUNC" in arguments:
                    self._disk.change(opened[0])
                self._known.add(opened[0])
        elif call.startswith(("rename", "link", "unlink", "mkdir")):
            self._names(call, arguments)
        return None

    def _names(self, call: str, arguments: str) -> None:
        folders = re.findall(r"(?:AT_FDCWD|\d+)<([^>]*)>", arguments)
        names = QUOTED.findall(arguments)
        paths = []
        for number, name in enumerate(names):
            folder = folders[min(number, len(folders) - 1)] if folders else "/"
            paths.append(str(Path(folder) / name))
        if call.startswith("rename"):
            self._disk.rename(*paths)
            self._known.add(paths[1])
            self._known.discard(paths[0])
        elif call.startswith("link"):
            self._disk.link(*paths)
            self._known.add(paths[1])
        elif call.startswith("unlink"):
            self._disk.unlink(paths[0])
            self._known.discard(paths[0])
        else:
            self._disk.entry(paths[0])

    def _socket(self, call: str, socket: str, arguments: str) -> Answer | None:
        if asked := REQUEST.search(arguments):
            self._asked[socket] = asked[1].partition("?")[0].rpartition("/")[2]
        elif call in ("write", "writev", "sendto", "sendmsg") and '"HTTP/1.1 ' in arguments:
            status = int(arguments.partition('"HTTP/1.1 ')[2][:3])
            if status >= 200:
                method = self._asked.pop(socket, "")
                return Answer(method, status, set(self._disk.changed))
        return None
