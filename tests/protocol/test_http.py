# SPDX-License-Identifier: AGPL-3.0-or-later
"""URLs, verbs, bodies and framings: docs/sync-protocol.md, 1 and 2."""

import gzip
import http.client
import json
import socket
from collections.abc import Callable

import pytest
import zstandard

from tests.protocol.client import FORM_HEADERS, Client, form, pack, unpack
from tests.servers import PASSWORD, Server

SERVERS = ("cardkeep", "official")

HOST_KEY = json.dumps({"u": "{user}", "p": PASSWORD})


@pytest.mark.parametrize("verb", ["GET", "HEAD"])
def test_health_is_answered_without_a_key(server: Server, verb: str) -> None:
    """200 and nothing else."""
    reply = Client(server.port).send("/health", verb=verb)
    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize("base", ["", "/sub", "/a/b/c", "/", "//", "/sync", "/sub/"])
def test_every_base_that_clients_form_works(
    request: pytest.FixtureRequest, server_kind: str, device: Callable[..., Client], base: str
) -> None:
    """A prefix kept by a proxy, doubled slashes, and `/sync/` typed into the URL."""
    if server_kind == "official" and base:
        pytest.skip("answers 404, as documented")
    for protocol in (11, 10):
        client = device(protocol)
        client.base = base
        assert client.meta()["cont"] is True
        assert client.begin()["usn"] == 0
        assert client.media_changes() == []


@pytest.mark.parametrize("path", ["/sync/nothing", "/msync/nothing", "/sync/hostkey"])
def test_an_unknown_method_is_refused(client: Client, path: str) -> None:
    """400 or 404, never anything that logs the client out."""
    reply = client.send(path, pack(b"{}"), {**client.header()})
    assert reply.status in (400, 404)


@pytest.mark.parametrize("path", ["/sync/meta", "/sync/hostKey", "/msync/mediaChanges"])
@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE"])
def test_another_verb_is_refused(server: Server, path: str, verb: str) -> None:
    """405 with the verb that would do."""
    reply = Client(server.port).send(path, verb=verb)
    assert reply.status == 405
    assert "POST" in reply.headers["Allow"]


def test_a_body_with_a_length_and_a_chunked_one_are_the_same(client: Client) -> None:
    """Current clients send every body chunked, old ones with its length."""
    body = pack(json.dumps({"v": 11, "cv": "x"}).encode())
    client.protocol = 11
    whole = client.send("/sync/meta", body, client.header())
    pieces = client.send("/sync/meta", (body[n : n + 1] for n in range(len(body))), client.header())
    assert whole.status == pieces.status == 200


def test_a_connection_serves_many_requests_in_any_mixture(server: Server, user: str) -> None:
    """Kept alive, with both framings and refusals between."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    client = Client(server.port).login(user, PASSWORD)
    for _ in range(3):
        for headers, body, status in (
            (client.header(), pack(b'{"v":11,"cv":"x"}'), 200),
            (client.header(k="wrong"), pack(b'{"v":11,"cv":"x"}'), 403),
            (FORM_HEADERS, form(b'{"v":10,"cv":"x"}', {"k": client.key, "s": "abc"}), 200),
        ):
            connection.request("POST", "/sync/meta", body, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
    connection.close()


@pytest.mark.official_fails("closes the connection", strict=False)
def test_a_refusal_reaches_a_client_that_is_still_sending(server: Server) -> None:
    """The rest of the body is taken, so that the status arrives instead of a broken pipe."""
    client = Client(server.port, key="nobody")
    blocks = 200
    reply = client.send("/sync/upload", (b"x" * 65536 for _ in range(blocks)), client.header())
    assert reply.status == 403


def test_a_client_that_waits_to_be_asked_is_asked(server: Server, user: str) -> None:
    """`Expect: 100-continue` is honoured: proxies and curl send it with large bodies."""
    client = Client(server.port).login(user, PASSWORD)
    body = pack(b'{"v":11,"cv":"x"}')
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        head = f"POST /sync/meta HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += f"anki-sync: {client.header()['anki-sync']}\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


# --- protocol 11 -----------------------------------------------------------------------


def test_the_answer_of_protocol_11_carries_its_size(server: Server, user: str) -> None:
    """Without `anki-original-size` the client fails, for `null` answers too."""
    client = Client(server.port).login(user, PASSWORD)
    for method, message in (("meta", b'{"v":11,"cv":"x"}'), ("abort", b'{"_pad":null}')):
        reply = client.send(f"/sync/{method}", pack(message), client.header())
        payload = unpack(reply.body)
        assert reply.headers["anki-original-size"] == str(len(payload))
        assert reply.headers["content-encoding"] is None
    assert payload == b"null"


@pytest.mark.parametrize("level", [1, 3, 19])
def test_any_zstd_frame_is_read(server: Server, user: str, level: int) -> None:
    """With and without the content's size and a checksum, at any level."""
    client = Client(server.port).login(user, PASSWORD)
    for size in (True, False):
        packer = zstandard.ZstdCompressor(
            level=level, write_content_size=size, write_checksum=not size
        )
        body = packer.compress(b'{"v":11,"cv":"x"}')
        assert client.send("/sync/meta", body, client.header()).status == 200


def test_header_keys_that_are_not_known_are_ignored(server: Server, user: str) -> None:
    """A newer client may say more about itself."""
    client = Client(server.port).login(user, PASSWORD)
    body = pack(b'{"v":11,"cv":"x","new":1}')
    assert client.send("/sync/meta", body, client.header(zz=[1, {}])).status == 200


def test_the_header_with_a_lower_version_is_answered_plainly(server: Server, user: str) -> None:
    """`v` below 11 in the header: the body is zstd, the answer is not."""
    client = Client(server.port).login(user, PASSWORD)
    reply = client.send("/sync/meta", pack(b'{"v":10,"cv":"x"}'), client.header(v=10))
    assert reply.status == 200
    assert json.loads(reply.body)["cont"] is True


# --- forms ------------------------------------------------------------------------------


def forms(key: str) -> list[tuple[str, bytes]]:
    """The same `meta` as each family of old clients sends it."""
    message = b'{"v":10,"cv":"x"}'
    packed = gzip.compress(message)
    keys = {"k": key, "s": "abc"}
    last = form(None, {"c": "1", **keys})[: -len(b"--a-boundary-of-the-tests--\r\n")]
    return [
        ("engine: data first", form(packed, {"c": "1", **keys})),
        ("data last", last + form(packed, {})),
        ("plain, c=0", form(message, {"c": "0", **keys})),
        ("plain, no c", form(message, keys)),
        ("unknown fields", form(packed, {"c": "1", **keys, "v": "x", "zz": "1"})),
        ("c=2", form(packed, {"c": "2", **keys})),
    ]


def test_every_form_of_old_clients_is_read(server: Server, user: str) -> None:
    """In any order, packed or not, and the answer is plain."""
    client = Client(server.port, 10).login(user, PASSWORD)
    for name, body in forms(client.key):
        reply = client.send("/sync/meta", body, FORM_HEADERS)
        assert reply.status == 200, name
        assert json.loads(reply.body)["cont"] is True
        assert reply.headers["anki-original-size"] is None


def test_a_form_without_data_is_an_empty_message(server: Server, user: str) -> None:
    """Old AnkiDroid downloads with nothing but its key."""
    client = Client(server.port, 10).login(user, PASSWORD)
    body = form(None, {"c": "1", "k": client.key, "v": "ankidroid,2.15.6,android"})
    reply = client.send("/sync/download", body, FORM_HEADERS)
    assert reply.status == 200
    assert reply.body.startswith(b"SQLite format 3\0")


# --- keys -------------------------------------------------------------------------------


def test_a_wrong_password_and_an_unknown_user_are_forbidden(server: Server, user: str) -> None:
    """403 in both framings; the body does not tell which of the two was wrong."""
    for protocol in (11, 10):
        client = Client(server.port, protocol)
        client.login(user, "wrong", check=403)
        client.login("nobody at all", PASSWORD, check=403)


def test_an_unknown_key_is_forbidden_everywhere(server: Server, protocol: int) -> None:
    """403 for every method but the login."""
    client = Client(server.port, protocol, key="0" * 40)
    client.media_key = client.key
    client.meta(check=403)
    client.start(check=403)
    client.apply_graves(check=403)
    client.apply_changes(check=403)
    client.chunk(check=403)
    client.apply_chunk(check=403)
    client.sanity([[0, 0, 0], 0, 0, 0, 0, 0, 0, 0], check=403)
    client.finish(check=403)
    client.abort(check=403)
    client.upload(b"x", check=403)
    client.download(check=403)
    client.begin(check=403)
    client.media_changes(check=403)
    client.upload_media(("a", b"b"), check=403)
    client.download_files("a", check=403)
    client.media_sanity(0, check=403)


def test_devices_of_one_user_work_side_by_side(device: Callable[..., Client]) -> None:
    """A second login leaves the first one's key valid."""
    first, second = device(11), device(10)
    assert first.meta()["usn"] == second.meta()["usn"]
    assert first.meta()
