# SPDX-License-Identifier: AGPL-3.0-or-later
"""The server as a process: how it begins, what it says, how it ends."""

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.conftest import Run
from tests.cli.serving import CARDKEEP, Serving, children, is_alive

Serve = Callable[..., Serving]
BOTH_SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
ENDLESS = (sys.executable, "-m", "tests.cli.endless")


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


# --- beginning --------------------------------------------------------------------------


def test_it_says_what_to_enter_in_each_client(serve: Serve, base: Path) -> None:
    """For new clients the base URL, for old ones the two variables."""
    server = serve()
    url = server.url()
    server.wait_for("user add")
    assert f"new: {url}" in server.printed
    assert f"old: SYNC_ENDPOINT={url}sync/\n" in server.printed
    assert f"SYNC_ENDPOINT_MEDIA={url}msync/\n" in server.printed
    assert str(base) in server.printed
    assert server.get() == 200


@pytest.mark.parametrize("command", [CARDKEEP, (*CARDKEEP, "serve")])
def test_without_a_command_it_serves(command: tuple[str, ...], serve: Serve) -> None:
    """`python -m cardkeep` does, as `python -m anki.syncserver` did; flags may follow."""
    assert serve("--log-level", "error", command=command).get() == 200


def test_the_installed_program_serves(serve: Serve) -> None:
    """`cardkeep serve`."""
    program = Path(sys.executable).with_name("cardkeep")
    assert serve(command=(str(program), "serve")).get() == 200


def test_all_interfaces_are_the_default(serve: Serve) -> None:
    """IPv4 and IPv6 on one port; the addresses for other machines come first."""
    server = serve(CARDKEEP_HOST="")
    port = urlsplit(server.url()).port
    server.wait_for("user add")
    assert server.get() == 200
    if has_ipv6():
        assert f"http://[::1]:{port}/" in server.printed
        assert server.get(url=f"http://[::1]:{port}/") == 200
    urls = [line.split()[1] for line in server.printed.splitlines() if "new: http" in line]
    assert len(urls) == len(set(urls))
    loopback = ["127.0.0.1" in url or "::1]" in url for url in urls]
    assert loopback == sorted(loopback)
    for url in urls:
        assert server.get(url=url) == 200


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6_alone_takes_ipv4_too(serve: Serve) -> None:
    """SYNC_HOST=:: means both, as on the official server."""
    server = serve(CARDKEEP_HOST="", SYNC_HOST="::")
    port = urlsplit(server.wait_for(r"http://\[::1\]:[0-9]+/")[0]).port
    assert server.get(url=f"http://[::1]:{port}/") == 200
    assert server.get(url=f"http://127.0.0.1:{port}/") == 200


def test_the_environment_of_the_official_server(serve: Serve, run: Run, base: Path) -> None:
    """SYNC_BASE, SYNC_HOST, SYNC_PORT and SYNC_USER1 suffice, and no user is asked for."""
    server = serve(
        CARDKEEP_FOLDER="",
        CARDKEEP_HOST="",
        CARDKEEP_PORT="",
        SYNC_BASE=str(base),
        SYNC_HOST="127.0.0.1",
        SYNC_PORT="0",
        SYNC_USER1="ana:secret",
        SYNC_USER3="eva:secret",
    )
    assert server.get() == 200
    assert "SYNC_USER2 is not set but SYNC_USER3 is" in server.log
    assert "ana" in run("user", "list").stdout
    server.end(signal.SIGTERM)
    assert "no user yet" not in server.rest()
    assert "secret" not in server.printed + server.log


def test_without_a_user_it_says_how_to_make_one(serve: Serve, run: Run) -> None:
    """The command that it prints works, and the next start asks no more."""
    server = serve()
    server.wait_for("There is no user yet")
    command = server.wait_for(r"  (.*user add .*) NAME\n")[1].split()
    made = run(*command[command.index("user") :], "ana", stdin="secret\n")
    assert (made.returncode, made.stdout) == (0, "ana can log in now\n")
    server.end(signal.SIGTERM)
    again = serve()
    again.url()
    again.end(signal.SIGTERM)
    assert "no user yet" not in again.rest()


def test_open_says_so_and_stays_on_this_machine(serve: Serve) -> None:
    """Without an address it listens on the loopback only."""
    server = serve("--open", CARDKEEP_HOST="")
    server.url()
    server.wait_for("OPEN: anybody who reaches this server")
    server.end(signal.SIGTERM)
    lines = [line for line in server.rest().splitlines() if "new: http" in line]
    assert all("from this machine only" in line for line in lines)
    assert "no user yet" not in server.printed


def test_the_public_address_comes_first(serve: Serve) -> None:
    """Behind a proxy, that is what people enter."""
    server = serve("--public-url", "https://anki.example.org/sub")
    server.url()
    found = [line.split()[1] for line in server.printed.splitlines() if "new: http" in line]
    assert found[0] == "https://anki.example.org/sub/"
    assert "SYNC_ENDPOINT=https://anki.example.org/sub/sync/" in server.printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "x"], "port: 'x' (flag --port) cannot be used; expected a number"),
        (["--host", "no.such.host.invalid"], "host: 'no.such.host.invalid' cannot be listened on"),
        (["--host", "192.0.2.77"], "host: 192.0.2.77 cannot be listened on"),
        (["--folder", "/dev/null/x"], "folder: '/dev/null/x' cannot be made"),
        (["--folder", "/dev/null"], "folder: '/dev/null' cannot be made"),
        (["--config", "/nowhere"], "config: '/nowhere' (flag --config): No such file"),
    ],
)
def test_a_wrong_setting_is_one_line(flags: list[str], message: str, run: Run) -> None:
    """On standard error, with exit status 2."""
    done = run("serve", "--port", "0", *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_taken_port_is_one_line(run: Run) -> None:
    """It names the port and the address."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("serve", "--host", "127.0.0.1", "--port", str(port))
    assert done.returncode == 2
    assert f"port: {port} on 127.0.0.1 is taken by another program" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unusable_accounts_file_is_one_line(run: Run, base: Path) -> None:
    """Nothing listens before the accounts are known to work."""
    base.mkdir()
    (base / "accounts.db").write_bytes(b"not a database" * 100)
    done = run("serve", "--host", "127.0.0.1", "--port", "0")
    assert done.returncode == 1
    assert "accounts.db cannot be" in done.stderr
    assert done.stderr.count("\n") == 1


# --- ending -----------------------------------------------------------------------------


@BOTH_SIGNALS
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_ends_it(workers: str, number: int, serve: Serve) -> None:
    """At once, with status 0, and leaving no process behind."""
    server = serve("--workers", workers)
    assert server.get() == 200
    started = children(server.pid)
    assert len(started) == (2 if workers == "2" else 0)
    status, seconds = server.end(number)
    assert (status, seconds < 5) == (0, True)
    assert not any(map(is_alive, started))
    assert "Traceback" not in server.log


@BOTH_SIGNALS
def test_a_signal_that_comes_while_it_starts(number: int, serve: Serve) -> None:
    """Also before anything is printed."""
    for delay in (0.3, 0.5):
        server = serve()
        # Python itself catches SIGINT, but SIGTERM is caught once the handlers are there.
        wait_until(lambda server=server: caught(server.pid, signal.SIGTERM))
        time.sleep(delay - 0.3)
        assert server.end(number)[0] == 0


def caught(pid: int, number: int) -> bool:
    """Whether the process handles the signal; the kernel tells as a mask in hexadecimal."""
    line = Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0]
    return bool(int(line, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("how", ["request", "thread", "close"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_whatever_hangs_it_ends(how: str, workers: str, serve: Serve) -> None:
    """Within five seconds of the signal, with status 0."""
    server = serve(how, workers, command=ENDLESS)
    url = urlsplit(server.url())
    with socket.create_connection((url.hostname, url.port)) as client:
        client.sendall(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        server.wait_for("hanging")
        started = children(server.pid)
        status, seconds = server.end(signal.SIGTERM)
    assert (status, seconds < 5) == (0, True)
    assert not any(map(is_alive, started))


def test_a_start_that_hangs_is_ended(serve: Serve) -> None:
    """The signal does not wait for the server to be ready."""
    server = serve("start", "1", command=ENDLESS)
    server.url()
    status, seconds = server.end(signal.SIGTERM)
    assert (status, seconds < 5) == (0, True)


def test_half_a_request_does_not_hold_it_up(serve: Serve) -> None:
    """A client that stopped sending in the middle is left."""
    server = serve()
    url = urlsplit(server.url())
    with socket.create_connection((url.hostname, url.port)) as client:
        client.sendall(b"POST /sync/meta HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert server.get() == 200
        status, seconds = server.end(signal.SIGTERM)
    assert (status, seconds < 5) == (0, True)


def test_a_second_interrupt_ends_it_at_once(serve: Serve) -> None:
    """Who presses Ctrl-C twice does not wait for the grace."""
    server = serve("request", "1", command=ENDLESS)
    url = urlsplit(server.url())
    with socket.create_connection((url.hostname, url.port)) as client:
        client.sendall(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        server.wait_for("hanging")
        os.kill(server.pid, signal.SIGINT)
        # The first one has been taken when connections are no longer accepted.
        wait_until(lambda: refused(url.port))
        status, seconds = server.end(signal.SIGINT)
    assert (status, seconds < 2) == (0, True)


def refused(port: int | None) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port or 0), timeout=1).close()
    except OSError:
        return True
    return False


def test_the_port_is_free_again_at_once(serve: Serve) -> None:
    """Also with connections that were open when it ended."""
    server = serve()
    url = urlsplit(server.url())
    with socket.create_connection((url.hostname, url.port)) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        server.end(signal.SIGTERM)
    assert serve("--port", str(url.port)).get() == 200


needs_unshare = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="only root can make a process namespace",
)


@needs_unshare
@BOTH_SIGNALS
@pytest.mark.parametrize("workers", ["1", "2"])
def test_process_1_ends_too(workers: str, number: int, serve: Serve) -> None:
    """As the first process of a container, which gets no signal that it does not handle."""
    unshare = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    server = serve("--workers", workers, command=(*unshare, *CARDKEEP, "serve"))
    assert server.get() == 200
    (first,) = children(server.pid)
    assert Path(f"/proc/{first}/status").read_text().split("NSpid:")[1].split()[1] == "1"
    begun = time.monotonic()
    os.kill(first, number)
    assert server.process.wait(20) == 0
    assert time.monotonic() - begun < 5


# --- several workers --------------------------------------------------------------------


def test_a_dead_worker_is_replaced(serve: Serve) -> None:
    """The server goes on answering, and is as many again as it was told to be."""
    server = serve("--workers", "2")
    assert server.get() == 200
    first, second = children(server.pid)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(set(children(server.pid)) - {first}) == 2)
    assert second in children(server.pid)
    for _ in range(20):
        assert server.get() == 200
    assert f"worker {first} ended (signal 9)" in server.log


def test_workers_end_with_a_killed_supervisor(serve: Serve) -> None:
    """Nobody goes on serving, or holding the port."""
    server = serve("--workers", "2")
    assert server.get() == 200
    started = children(server.pid)
    assert len(started) == 2
    server.end(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, started)))


def test_workers_that_cannot_start(serve: Serve) -> None:
    """After a few attempts the whole server gives up, with a status that says so."""
    server = serve("broken", "2", command=ENDLESS)
    assert server.process.wait(30) == 1
    assert "it cannot start" in server.log
    assert "giving up" in server.log


def test_one_worker_that_cannot_start(serve: Serve) -> None:
    """The error is in the log, and the status is 1."""
    server = serve("broken", "1", command=ENDLESS)
    assert server.process.wait(30) == 1
    assert "RuntimeError: it cannot start" in server.log


# --- memory -----------------------------------------------------------------------------


def test_the_server_imports_only_what_it_serves_with(serve: Serve) -> None:
    """Libraries of other commands, and of the tests, cost no memory."""
    program = (
        "import sys\n"
        "import cardkeep.cli.main, cardkeep.cli.serve, cardkeep.cli.processes\n"
        "import cardkeep.cli.announcement\n"
        "heavy = {'rich', 'anki', 'pytest', 'tomllib', 'h11', 'websockets'} & sys.modules.keys()\n"
        "print(f'heavy: {sorted(heavy)}')\n"
    )
    server = serve(command=(sys.executable, "-c", program))
    assert server.wait_for("heavy: (.*)\n")[1] == "[]"
