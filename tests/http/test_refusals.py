# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every error has one status, one line in the log, and says nothing more to the client."""

import logging
import re

import pytest

from cardkeep import errors as tree
from cardkeep import messages
from cardkeep.http.errors import Gone, WrongVerb, printable, status_of
from cardkeep.http.limits import Limits
from tests.http.serving import KEY, Client, MemorySteps, http_chunk, read_raw, serving
from tests.wire.requests import sync_header

REFUSALS = [
    (tree.BadRequest("a detail"), 400),
    (tree.TooLarge("a detail", "setting"), 400),
    (tree.WrongCredentials("a detail"), 403),
    (tree.UnknownMethod("a detail"), 404),
    (tree.Conflict("a detail"), 409),
    (tree.MissingMedia("a detail"), 409),
    (tree.Throttled("a detail", 17), 429),
    (tree.UnsupportedVersion("a detail"), 501),
    (tree.Unavailable("a detail"), 503),
    (tree.NotAccepted("a detail"), 400),
    (tree.CardkeepError("a detail"), 500),
    (ValueError("a detail"), 500),
    (OSError("a detail"), 500),
    (RecursionError("a detail"), 500),
    (MemoryError("a detail"), 500),
]


@pytest.mark.parametrize(("error", "status"), REFUSALS)
@pytest.mark.parametrize("framing", ["11", "10"])
def test_errors_of_steps(
    client: Client,
    steps: MemorySteps,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    framing: str,
) -> None:
    """The status tells the client what to do, the log tells the operator why."""
    steps.answers[messages.Finish] = error
    if framing == "11":
        answer = client.direct("/sync/finish")
    else:
        answer = client.form("/sync/finish", {"k": b"key", "s": b"s"})
    assert answer.status == status
    assert "anki-original-size" not in answer.headers
    assert b"detail" not in answer.body
    assert 0 < len(answer.body) < 60
    assert answer.headers.get("retry-after") == ("17" if status == 429 else None)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"refused finish user=ana address=127.0.0.1 status={status}: a detail"
    )
    assert record.levelno == (logging.ERROR if status == 500 else logging.WARNING)
    assert (record.exc_info is not None) == (status == 500)
    assert client.direct("/sync/meta", b'{"v":11,"cv":""}').status == 200


def test_every_class_of_the_tree_has_a_status() -> None:
    """A new class in errors.py without a row in the table would end in 500."""
    on_purpose = {tree.CardkeepError, tree.Refused}
    unknown = {
        kind
        for kind in vars(tree).values()
        if isinstance(kind, type)
        and issubclass(kind, tree.CardkeepError)
        and not issubclass(kind, tree.CommandError)
        and status_of(kind.__new__(kind)) == 500
    }
    assert unknown == on_purpose


def test_a_subclass_has_the_status_of_its_nearest_ancestor() -> None:
    class Special(tree.MissingMedia):
        pass

    assert status_of(Special("x")) == 409
    assert status_of(WrongVerb("GET", ("POST",))) == 405


def test_only_wrong_credentials_are_403() -> None:
    """Clients forget their login at a 403."""
    assert [type(error) for error, status in REFUSALS if status == 403] == [tree.WrongCredentials]


@pytest.mark.parametrize(
    ("error", "status"), [(tree.WrongCredentials("no"), 403), (tree.Throttled("no", 30), 429)]
)
def test_a_refused_login_names_the_user_and_the_address(
    client: Client,
    steps: MemorySteps,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
) -> None:
    """One stable line, for people and for programs that watch logs; never the password."""
    steps.answers[messages.HostKey] = error
    answer = client.direct("/sync/hostKey", '{"u":"änne\\n","p":"geheim"}'.encode(), k="")
    assert answer.status == status
    assert [record.getMessage() for record in caplog.records] == [
        f"refused hostKey user=änne\\n address=127.0.0.1 status={status}: no"
    ]


def test_nobody_can_write_lines_of_his_own_into_the_log(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Names, paths and reasons come from outside."""
    client.direct("/sync/x%0Arefused%20finish%20user=eve%1b[2J", b"{}")
    client.direct("/sync/meta", b'{"v":"\\n\\u2028","cv":1}')
    client.request("POST", "/sync/meta", b"{}", {"anki-sync": '{"v":11,"\\n":1, "k":5}'})
    assert len(caplog.records) == 3
    for record in caplog.records:
        assert record.getMessage().isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("日本 é", "日本 é"),
        ("a\nb\r\tc\0\x1b[0m\x7f", "a\\nb\\r\\tc\\x00\\x1b[0m\\x7f"),
        ("\u2028\u202e\ud800\U000e0001", "\\u2028\\u202e\\ud800\\U000e0001"),
        ("x" * 600, "x" * 500 + "…"),
    ],
)
def test_text_from_outside_is_one_printable_line(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("sent", [10_000, 1_000_000])
def test_the_rest_of_a_refused_body_is_read_first(
    client: Client, steps: MemorySteps, sent: int
) -> None:
    """Else the client sees a broken connection; afterwards the connection is as good as new."""
    body = (b"x" * 10_000 for _ in range(sent // 10_000))
    assert client.direct("/sync/upload", body=body, k="old").status == 403
    assert client.direct("/sync/meta", b'{"v":11,"cv":""}').status == 200


def test_reading_on_has_an_end(steps: MemorySteps) -> None:
    """Past the limit the answer comes and the connection ends."""
    with serving(steps, Limits(discarded=100_000)) as port:
        client = Client(port)
        sock = client.start("/sync/upload", {"anki-sync": sync_header(k="old")})
        sock.sendall(http_chunk(b"x" * 120_000))
        answer = read_raw(sock)
        assert (answer.status, answer.headers["connection"]) == (403, "close")
        assert sock.recv(100) == b""
        client.close()


def test_reading_on_does_not_wait_forever(steps: MemorySteps) -> None:
    """A client that sends no more gets its answer all the same."""
    with serving(steps, Limits(discard_seconds=0.2)) as port:
        client = Client(port)
        sock = client.start("/sync/upload", {"anki-sync": sync_header(k="old")})
        sock.sendall(http_chunk(b"x"))
        answer = read_raw(sock)
        assert (answer.status, answer.headers["connection"]) == (403, "close")
        client.close()


def test_a_client_that_goes_away_is_no_error(
    client: Client, steps: MemorySteps, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the log, unless somebody looks for it."""
    caplog.set_level(logging.DEBUG, logger="cardkeep.http")
    sock = client.start("/sync/meta", {"anki-sync": sync_header(k=KEY)})
    sock.sendall(http_chunk(b"x"))
    client.close()
    other = Client(int(client.connection.port))
    while not caplog.records:
        assert other.direct("/sync/meta", b'{"v":11,"cv":""}').status == 200
    other.close()
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]
    assert issubclass(Gone, Exception)


def test_the_log_has_no_key(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Host keys are secrets, wrong ones too: they may be of another server."""
    client.direct("/sync/meta", b"{}", k="a-secret-of-mine")
    client.direct("/sync/meta", b"[]", k=KEY)
    assert not re.search("a-secret-of-mine|k=", caplog.text)
    assert len(caplog.records) == 2
