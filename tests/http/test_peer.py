# SPDX-License-Identifier: AGPL-3.0-or-later
"""The client's address comes from the socket, or from the one header that was named."""

import pytest

from cardkeep.errors import SettingsError
from cardkeep.http.peer import Peer
from tests.http.serving import Client, MemorySteps, serving

SPOOFED = [
    (b"x-forwarded-for", b"198.51.100.1, 203.0.113.9"),
    (b"x-real-ip", b"203.0.113.8"),
    (b"forwarded", b"for=198.51.100.1, for=203.0.113.7;proto=https"),
    (b"true-client-ip", b"203.0.113.6"),
    (b"cf-connecting-ip", b"2001:db8::5"),
    (b"fly-client-ip", b"203.0.113.4"),
    (b"x-envoy-external-address", b"203.0.113.3"),
    (b"cloudfront-viewer-address", b"203.0.113.2:46532"),
    (b"x-my-proxy", b"203.0.113.1"),
]


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("", "192.0.2.1"),
        ("ConnectInfo", "192.0.2.1"),
        ("RightmostXForwardedFor", "203.0.113.9"),
        ("XRealIp", "203.0.113.8"),
        ("RightmostForwarded", "203.0.113.7"),
        ("TrueClientIp", "203.0.113.6"),
        ("CfConnectingIp", "2001:db8::5"),
        ("FlyClientIp", "203.0.113.4"),
        ("XEnvoyExternalAddress", "203.0.113.3"),
        ("CloudFrontViewerAddress", "203.0.113.2"),
        ("X-My-Proxy", "203.0.113.1"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("forwarded", "203.0.113.7"),
        ("X-Not-Sent", "192.0.2.1"),
    ],
)
def test_sources(source: str, address: str) -> None:
    """The official server's words and plain header names; others' headers are not looked at."""
    scope = {"headers": SPOOFED, "client": ("192.0.2.1", 5000)}
    assert Peer(source).address(scope) == address


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (b"203.0.113.9", "203.0.113.9"),
        (b" 203.0.113.9 ", "203.0.113.9"),
        (b"203.0.113.9:80", "203.0.113.9"),
        (b"[2001:db8::1]:80", "2001:db8::1"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"::ffff:203.0.113.9", "203.0.113.9"),
        (b"203.0.113.9, junk", "192.0.2.1"),
        (b"", "192.0.2.1"),
        (b"\xff\xfe", "192.0.2.1"),
        (b"<script>", "192.0.2.1"),
    ],
)
def test_values(value: bytes, address: str) -> None:
    """Of a list the last; what is no address counts as none."""
    scope = {"headers": [(b"x-forwarded-for", value)], "client": ("192.0.2.1", 5000)}
    assert Peer("RightmostXForwardedFor").address(scope) == address


def test_the_last_of_several_headers_counts() -> None:
    """It is the one that the nearest proxy wrote."""
    headers = [(b"x-real-ip", b"198.51.100.1"), (b"x-real-ip", b"203.0.113.8")]
    assert Peer("XRealIp").address({"headers": headers, "client": None}) == "203.0.113.8"


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (b'for="[2001:db8::1]:4711"', "2001:db8::1"),
        (b"proto=http;FOR=203.0.113.7 ; by=192.0.2.5", "203.0.113.7"),
        (b"for=_hidden", ""),
        (b"by=203.0.113.7", ""),
        (b"before=203.0.113.7", ""),
    ],
)
def test_forwarded(value: bytes, address: str) -> None:
    """RFC 7239."""
    scope = {"headers": [(b"forwarded", value)], "client": None}
    assert Peer("RightmostForwarded").address(scope) == address


def test_sockets_of_both_families() -> None:
    """An IPv4 client has one name, however it came; a Unix socket has none."""
    scope = {"headers": [], "client": ("::ffff:192.0.2.1", 1)}
    assert Peer().address(scope) == "192.0.2.1"
    assert Peer().address(scope | {"client": ("2001:db8::1", 1)}) == "2001:db8::1"
    assert Peer().address(scope | {"client": None}) == ""


@pytest.mark.parametrize("source", ["XRealIP2", "X Real", "x-", "-", "x:y", "X-A\nB"])
def test_a_name_that_is_none_is_refused_at_the_start(source: str) -> None:
    with pytest.raises(SettingsError, match="expected"):
        Peer(source)


@pytest.mark.parametrize(("source", "address"), [("", "127.0.0.1"), ("XRealIp", "203.0.113.8")])
def test_steps_hear_the_address(steps: MemorySteps, source: str, address: str) -> None:
    """With every request."""
    with serving(steps, peer=Peer(source)) as port:
        client = Client(port)
        client.request(
            "GET", "/msync/begin?k=key&v=x", headers={"x-real-ip": "203.0.113.8", "x-a": "b"}
        )
        client.close()
    assert [caller.address for caller in steps.callers] == [address]
