# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where the server listens, and what it says of that."""

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cardkeep.cli import addresses
from cardkeep.errors import SettingsError


@contextmanager
def listening(*hosts: str, port: int = 0, required: bool = True) -> Iterator[list[socket.socket]]:
    sockets = addresses.listen(hosts, port, required=required)
    with contextlib.ExitStack() as stack:
        for made in sockets:
            stack.enter_context(made)
        yield sockets


def test_all_sockets_have_one_port() -> None:
    """Also where the system chooses it."""
    with listening("127.0.0.1", "127.0.0.2") as sockets:
        places = [made.getsockname() for made in sockets]
    assert [host for host, _ in places] == ["127.0.0.1", "127.0.0.2"]
    assert len({port for _, port in places}) == 1


def test_a_name_is_each_of_its_addresses() -> None:
    """`localhost` can be two, and one given twice is listened on once."""
    with listening("localhost", "127.0.0.1") as sockets:
        hosts = [made.getsockname()[0] for made in sockets]
    assert "127.0.0.1" in hosts
    assert len(hosts) == len(set(hosts))


def test_a_family_that_is_not_there_is_left_out() -> None:
    """Of the defaults only: who asks for an address gets it or an error."""
    with listening("127.0.0.1", "2001:db8::77", required=False) as sockets:
        assert len(sockets) == 1
    with pytest.raises(SettingsError, match="2001:db8::77"), listening("127.0.0.1", "2001:db8::77"):
        pass
    with pytest.raises(SettingsError, match="none of"), listening("192.0.2.77", required=False):
        pass


def test_connections_are_taken_at_once() -> None:
    """Before the server is ready they wait, so that what is printed is true."""
    with listening("127.0.0.1") as (made,):
        socket.create_connection(made.getsockname(), timeout=5).close()


def test_a_taken_port_leaves_nothing_open() -> None:
    """If one of the addresses is taken, none is kept."""
    with listening("127.0.0.2") as (other,):
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"{port} on 127.0.0.2 is taken"):
            addresses.listen(("127.0.0.1", "127.0.0.2"), port, required=False)
        with listening("127.0.0.1", port=port) as sockets:
            assert len(sockets) == 1


def test_urls() -> None:
    """IPv6 addresses are in brackets, and loopback is told from the rest."""
    assert addresses.url("192.0.2.1", 80) == "http://192.0.2.1:80/"
    assert addresses.url("2001:db8::1", 8080) == "http://[2001:db8::1]:8080/"
    assert addresses.is_loopback(addresses.url("127.0.0.5", 1))
    assert addresses.is_loopback(addresses.url("::1", 1))
    assert not addresses.is_loopback(addresses.url("192.0.2.1", 1))


def test_the_machines_addresses() -> None:
    """Each can be listened on, and none is of use to this machine only."""
    for text in addresses.machine_addresses({4, 6}):
        address = ipaddress.ip_address(text)
        assert not address.is_loopback
        assert not address.is_link_local
        with listening(text):
            pass
    versions = {ipaddress.ip_address(text).version for text in addresses.machine_addresses({4})}
    assert versions <= {4}


def test_an_address_of_ones_own_is_shown_as_it_is() -> None:
    """Only what is listened on is printed."""
    with listening("127.0.0.1") as sockets:
        port = sockets[0].getsockname()[1]
        assert addresses.reachable(sockets) == [f"http://127.0.0.1:{port}/"]
    with listening("0.0.0.0") as sockets:
        urls = addresses.reachable(sockets)
    assert urls[-1].startswith("http://127.0.0.1:")
    assert len(urls) == len(set(urls))
