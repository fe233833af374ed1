# SPDX-License-Identifier: AGPL-3.0-or-later
"""Options and fixtures that all tests share.

``--server`` chooses what the protocol and client suites run against; ``--long`` adds the tests
that only `make test-long` runs (``-m long`` runs those alone), and has hypothesis draw new
examples.
"""

import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from tests.servers import USERS, Server, running

SERVERS = ("cardkeep", "official")
LOG_SHOWN = 4000


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server",
        choices=[*SERVERS, "both"],
        help="the server that the protocol and client suites run against",
    )
    parser.addoption("--long", action="store_true", help="also run tests marked long")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "official_fails(why): a promise of cardkeep that the official server does not keep",
    )
    # The same examples in every `make test`, so that a change is judged by what it changed; new
    # ones with --long. How long one takes is no matter: machines are slow at times.
    settings.register_profile("same", deadline=None, derandomize=True, database=None)
    settings.register_profile("new", deadline=None, print_blob=True)
    settings.load_profile("new" if config.getoption("--long") else "same")
    # A shell starts what it runs in the background with Ctrl-C ignored, and so would every
    # server that a test starts and wants to stop with it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _mark_documented_differences(items)
    if config.getoption("--long") or "long" in config.getoption("-m"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def _mark_documented_differences(items: list[pytest.Item]) -> None:
    for item in items:
        difference = item.get_closest_marker("official_fails")
        callspec = getattr(item, "callspec", None)
        if difference and callspec and callspec.params.get("server_kind") == "official":
            item.add_marker(pytest.mark.xfail(reason=difference.args[0], **difference.kwargs))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server_kind" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--server")
        usual = getattr(metafunc.module, "SERVERS", ("cardkeep",))
        kinds = {None: usual, "both": SERVERS}.get(chosen, (chosen,))
        metafunc.parametrize("server_kind", kinds, scope="module")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows the end of the server's log with each failure."""
    report = yield
    if report.failed:
        for thing in getattr(item, "funcargs", {}).values():
            if isinstance(thing, Server):
                report.sections.append((f"log of {thing.kind}", thing.log()[-LOG_SHOWN:]))
    return report


@pytest.fixture(scope="module")
def shared_server(server_kind: str) -> Iterator[Server]:
    """One server for the module."""
    with running(server_kind, users=USERS) as started:
        yield started


@pytest.fixture
def server(shared_server: Server) -> Server:
    """The module's server; each test takes accounts of its own, with `next_user`."""
    shared_server.renew_users()
    return shared_server
