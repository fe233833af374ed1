# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which addresses to listen on, and under which of them others reach this machine."""

import contextlib
import ctypes
import errno
import ipaddress
import socket
import sys
from collections.abc import Iterator
from typing import Any

from cardkeep.errors import SettingsError

ALL = ("0.0.0.0", "::")  # noqa: S104 - a server for other machines
LOOPBACK = ("127.0.0.1", "::1")
BACKLOG = 1024
Address = tuple[Any, ...]  # as `socket` has it: host, port, and two more for IPv6
# Networks of containers and virtual machines: only they themselves reach us there.
_INNER = ("docker", "br-", "veth", "virbr", "cni", "flannel", "podman", "vmnet")


def listen(hosts: tuple[str, ...], port: int, *, required: bool) -> list[socket.socket]:
    """Listening sockets for the hosts, all on one port.

    Unless `required`, a host of a family that the machine does not have (often IPv6) is left out.
    Raises SettingsError if nothing, or not everything required, can be listened on.
    """
    places = _resolve(hosts, port)
    both_families = hosts == ("::",)
    # With port 0 the first socket chooses, and the next may find that port taken: try again.
    for _ in range(10 if port == 0 else 1):
        with contextlib.ExitStack() as stack:
            sockets: list[socket.socket] = []
            try:
                for family, address in places:
                    chosen = sockets[0].getsockname()[1] if sockets else port
                    place = (address[0], chosen, *address[2:])
                    made = _listen_one(family, place, required, both_families)
                    if made is not None:
                        sockets.append(stack.enter_context(made))
            except _PortTaken as error:
                taken = error
                continue
            if not sockets:
                raise SettingsError(f"host: none of {', '.join(hosts)} can be listened on")
            stack.pop_all()
            return sockets
    raise SettingsError(f"port: {taken} is taken by another program; expected a free one (--port)")


class _PortTaken(Exception):
    pass


def _resolve(hosts: tuple[str, ...], port: int) -> list[tuple[socket.AddressFamily, Address]]:
    found: list[tuple[socket.AddressFamily, Address]] = []
    for host in hosts:
        try:
            answers = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, UnicodeError) as error:
            raise SettingsError(
                f"host: {host!r} cannot be listened on ({error}); expected an address of this "
                "machine, or 0.0.0.0 and :: for all"
            ) from None
        for family, _, _, _, address in answers:
            if (family, address) not in found:
                found.append((family, address))
    return found


def _listen_one(
    family: socket.AddressFamily, address: Address, required: bool, both_families: bool
) -> socket.socket | None:
    try:
        made = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        if required:
            raise SettingsError(f"host: this machine cannot listen on {address[0]}") from None
        return None
    try:
        if sys.platform != "win32":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" alone means IPv4 too, as with the official server; beside "0.0.0.0" it cannot.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both_families else 1)
        made.bind(address)
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise _PortTaken(f"{address[1]} on {address[0]}") from None
        if error.errno == errno.EACCES:
            raise SettingsError(
                f"port: {address[1]} is not allowed to this user; expected one above 1023"
            ) from None
        if required or error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
            raise SettingsError(
                f"host: {address[0]} cannot be listened on ({error.strerror})"
            ) from None
        return None
    return made


def reachable(sockets: list[socket.socket]) -> list[str]:
    """Base URLs under which the sockets are reached, those for other machines first."""
    urls: list[str] = []
    for listening in sockets:
        host, port = listening.getsockname()[:2]
        address = ipaddress.ip_address(host.partition("%")[0])
        if not address.is_unspecified:
            urls.append(url(str(address), port))
            continue
        families: set[int] = {address.version}
        if listening.family == socket.AF_INET6 and not listening.getsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
        ):
            families.add(4)
        loopback = [a for a in LOOPBACK if ipaddress.ip_address(a).version in families]
        urls += [url(a, port) for a in [*machine_addresses(families), *loopback]]
    return sorted(dict.fromkeys(urls), key=is_loopback)


def url(address: str, port: int) -> str:
    """The base URL of an address."""
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"


def is_loopback(base_url: str) -> bool:
    """Whether only this machine itself reaches that URL."""
    return base_url.startswith(("http://127.", "http://[::1]", "http://localhost"))


def machine_addresses(families: set[int]) -> list[str]:
    """The machine's own addresses of these IP versions, without those that only it can use."""
    found = []
    for name, address in _interfaces():
        usable = not (address.is_loopback or address.is_link_local or address.is_unspecified)
        if usable and address.version in families and not name.startswith(_INNER):
            found.append(str(address))
    return list(dict.fromkeys(found)) or _default_route(families)


def _default_route(families: set[int]) -> list[str]:
    """The addresses that packets to the world would carry; nothing is sent."""
    found = []
    for version, family, target in (
        (4, socket.AF_INET, "192.0.2.1"),
        (6, socket.AF_INET6, "2001:db8::1"),
    ):
        if version in families:
            with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                found.append(probe.getsockname()[0])
    return found


class _Ifaddrs(ctypes.Structure):
    pass


# The head of `struct ifaddrs`, alike on Linux and macOS (getifaddrs(3)).
_Ifaddrs._fields_ = [
    ("next", ctypes.POINTER(_Ifaddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
]


def _interfaces() -> Iterator[tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    """Name and address of each network interface; nothing where libc does not tell."""
    try:
        libc = ctypes.CDLL(None)
        head = ctypes.POINTER(_Ifaddrs)()
        if libc.getifaddrs(ctypes.byref(head)) != 0:
            return
    except (OSError, AttributeError, TypeError):
        return
    try:
        node = head
        while node:
            entry = node.contents
            if entry.address:
                # sockaddr: the family is the first two bytes (Linux) or the second (macOS).
                raw = ctypes.string_at(entry.address, 2)
                family = int.from_bytes(raw, sys.byteorder) if sys.platform == "linux" else raw[1]
                if family == socket.AF_INET:
                    data = ctypes.string_at(entry.address, 8)
                    yield entry.name.decode(), ipaddress.IPv4Address(data[4:8])
                elif family == socket.AF_INET6:
                    data = ctypes.string_at(entry.address, 24)
                    yield entry.name.decode(), ipaddress.IPv6Address(data[8:24])
            node = entry.next
    finally:
        libc.freeifaddrs(head)
