# SPDX-License-Identifier: AGPL-3.0-or-later
"""The two framings: one list of requests, read whole, byte by byte, and in any pieces."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardkeep.errors import BadRequest, UnsupportedVersion
from cardkeep.wire.direct import answers_packed, read_head
from cardkeep.wire.multipart import MAX_FIELD, MAX_PARTS, FormReader
from cardkeep.wire.query import read_query
from cardkeep.wire.request import Head
from tests.wire.requests import (
    form,
    pieces,
    read_direct,
    read_form,
    sync_header,
    zipped,
    zstd_frame,
)

JSON = b'{"u":"ana","p":"s\xc3\xa9cret"}'
BINARY = random.Random(7).randbytes(20_000)

DIRECT = [
    pytest.param(
        Head(11, "key", "sess", "client"), JSON, sync_header(), zstd_frame(JSON), id="json"
    ),
    pytest.param(
        Head(11, "", "bYXYe1", "26.09.3,29bb700b,linux"),
        b'{"_pad":null}',
        '{"v":11,"k":"","c":"26.09.3,29bb700b,linux","s":"bYXYe1"}',
        zstd_frame(b'{"_pad":null}'),
        id="as recorded",
    ),
    pytest.param(
        Head(9, "k", "", "ü"),
        BINARY,
        '{"new":[1,{}],"s":"","c":"\\u00fc","k":"k","v":9}',
        zstd_frame(BINARY),
        id="extra keys in the header, old version, incompressible bytes",
    ),
    pytest.param(Head(11, "key", "sess", "client"), b"", sync_header(), b"", id="no body at all"),
    pytest.param(
        Head(11, "key", "sess", "client"),
        b"",
        sync_header(),
        zstd_frame(b""),
        id="a frame of nothing",
    ),
]


@pytest.mark.parametrize(("head", "payload", "header", "body"), DIRECT)
@pytest.mark.parametrize("size", [1, 1000, 10**9])
def test_protocol_11(head: Head, payload: bytes, header: str, body: bytes, size: int) -> None:
    """Header and frame say the same, however the frame arrives."""
    assert read_direct(header, pieces(body, size)) == (head, payload)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        "[]",
        "null",
        "{",
        '{"v":11,"k":"","c":""}',
        '{"v":11,"k":"","s":""}',
        '{"v":11,"c":"","s":""}',
        '{"k":"","c":"","s":""}',
        '{"v":"11","k":"","c":"","s":""}',
        '{"v":11.0,"k":"","c":"","s":""}',
        '{"v":true,"k":"","c":"","s":""}',
        '{"v":11,"k":null,"c":"","s":""}',
        '{"v":11,"k":1,"c":"","s":""}',
        '{"v":11,"k":"","c":{},"s":""}',
        '{"v":11,"k":"","c":"","s":[]}',
        '{"v":11,"k":"\\ud800","c":"","s":""}',
        '{"v":11,"k":"","c":"","s":"","x":' + "[" * 5000 + "}",
        sync_header() + "x",
    ],
)
def test_a_broken_header_is_a_bad_request(header: str) -> None:
    """Unparsable, or a key missing or of the wrong type."""
    with pytest.raises(BadRequest, match="anki-sync header"):
        read_head(header.encode())


def test_a_header_that_is_not_utf8_is_a_bad_request() -> None:
    with pytest.raises(BadRequest):
        read_head(b'{"v":11,"k":"\xff","c":"","s":""}')


@pytest.mark.parametrize("version", [-1, 0, 7, 12, 10**30])
def test_other_versions_are_told_apart_from_bad_requests(version: int) -> None:
    """So that the client can say that it is too old, or too new."""
    with pytest.raises(UnsupportedVersion):
        read_head(sync_header(v=version).encode())


def test_only_version_11_gets_packed_answers() -> None:
    """A header with an older version means a packed request and a plain answer."""
    packed = {version: answers_packed(Head(version, "", "", "")) for version in (8, 9, 10, 11)}
    assert packed == {8: False, 9: False, 10: False, 11: True}


HEAD_10 = Head(10, "hkey", "sess", "")

FORMS = [
    pytest.param(
        HEAD_10,
        JSON,
        form({"data": zipped(JSON), "c": b"1", "k": b"hkey", "s": b"sess"}),
        id="engine: data first",
    ),
    pytest.param(
        HEAD_10,
        JSON,
        form({"c": b"1", "k": b"hkey", "s": b"sess", "data": zipped(JSON)}),
        id="legacy: data last",
    ),
    pytest.param(
        Head(10, "hkey", "", ""),
        BINARY,
        form({"data": BINARY, "sk": b"hkey"}),
        id="engine media: plain without c",
    ),
    pytest.param(
        Head(10, "hkey", "", ""),
        BINARY,
        form({"c": b"0", "sk": b"hkey", "data": BINARY}),
        id="legacy media upload: c=0",
    ),
    pytest.param(
        Head(10, "", "", ""), JSON, form({"data": zipped(JSON), "c": b"1"}), id="engine login"
    ),
    pytest.param(
        Head(10, "hkey", "", "ankidroid,2.15.6,android"),
        b"",
        form({"c": b"1", "k": b"hkey", "v": b"ankidroid,2.15.6,android"}),
        id="legacy download: no data",
    ),
    pytest.param(
        HEAD_10, b"", form({"data": b"", "c": b"1", "k": b"hkey", "s": b"sess"}), id="empty data"
    ),
    pytest.param(
        Head(10, "hkey", "K$J4+b1*Zr", ""),
        JSON,
        form({"data": zipped(JSON), "c": b"yes", "s": b"K$J4+b1*Zr", "k": b"hkey"}),
        id="any c but 0 means gzip",
    ),
    pytest.param(
        HEAD_10,
        b"{}",
        form({"x": b"1" * 5000, "data": b"{}", "k": b"hkey", "other": b"", "s": b"sess"}),
        id="fields that nobody knows, of any length",
    ),
    pytest.param(
        Head(10, "hkey", "", ""),
        b"{}",
        form({"k": b"old", "data": b"{}"})[:-24] + form({"k": b"hkey"}),
        id="a field twice: the last counts",
    ),
    pytest.param(Head(10, "", "", ""), b"", form({}), id="no fields"),
]


@pytest.mark.parametrize(("head", "payload", "body"), FORMS)
@pytest.mark.parametrize("size", [1, 3, 1000, 10**9])
def test_protocols_8_to_10(head: Head, payload: bytes, body: bytes, size: int) -> None:
    """Fields in any order, data packed or not, and however the form arrives."""
    read, data = read_form(pieces(body, size))
    assert (read.head, data) == (head, payload)


def test_a_value_that_looks_like_a_boundary_is_a_value() -> None:
    """The beginning of a boundary within the data does not end it, wherever it is cut."""
    data = b"\r\n--Anki-sync-boundar\r\n--Anki-sync-bound--\r\n\r\r\n--"
    body = form({"data": data, "k": b"k"})
    for size in range(1, 60):
        assert read_form(pieces(body, size))[1] == data


@given(
    data=st.binary(max_size=3000),
    values=st.dictionaries(
        st.sampled_from(["k", "s", "v", "x"]), st.text(st.characters(codec="utf-8"), max_size=40)
    ),
    order=st.randoms(use_true_random=False),
    packed=st.booleans(),
    cuts=st.lists(st.integers(1, 4000), max_size=12),
)
def test_any_form_in_any_pieces(
    data: bytes, values: dict[str, str], order: random.Random, packed: bool, cuts: list[int]
) -> None:
    """What was put in comes out: any bytes as data, any text as fields, in any order."""
    fields = {name: text.encode() for name, text in values.items()}
    fields |= {"data": zipped(data) if packed else data, "c": b"1" if packed else b"0"}
    names = list(fields)
    order.shuffle(names)
    boundary = "never-in-the-data-0123456789"
    body = form({name: fields[name] for name in names}, boundary)
    marks = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    parts = [body[start:end] for start, end in itertools.pairwise(marks)]
    read, payload = read_form(parts, f"multipart/form-data; boundary={boundary}")
    assert payload == data
    assert read.head == Head(10, values.get("k", ""), values.get("s", ""), values.get("v", ""))


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 5000,
        "multipart/mixed; boundary=x",
        "\xff",
    ],
)
def test_what_is_no_form_is_a_bad_request(content_type: str) -> None:
    with pytest.raises(BadRequest):
        FormReader(content_type.encode("latin-1"))


WHOLE = form({"data": b"x" * 50, "k": b"hkey"})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"--other\r\n",
        WHOLE.replace(b"\r\n\r\n", b"\n\n"),
        b"--Anki-sync-boundary\r\n: x\r\n\r\n\r\n--Anki-sync-boundary--",
        b"--Anki-sync-boundary\r\nA\0: x\r\n\r\n\r\n--Anki-sync-boundary--",
        *(WHOLE[:length] for length in range(1, len(WHOLE) - 3)),
    ],
)
def test_a_broken_or_cut_off_form_is_a_bad_request(body: bytes) -> None:
    """A form is only taken whole: its last boundary must be there."""
    with pytest.raises(BadRequest):
        read_form([body])


@pytest.mark.parametrize(
    "body",
    [
        form({f"x{number}": b"" for number in range(MAX_PARTS + 1)}),
        form({"k": b"x" * (MAX_FIELD + 1)}),
        form({"k": b"\xff"}),
        form({"s": b"\xed\xa0\x80"}),
        form({"data": b"1"})[:-24] + form({"data": b"2"}),
        b"--Anki-sync-boundary\r\nX-Long: " + b"y" * 100_000,
        b"--Anki-sync-boundary\r\n" + b"A: b\r\n" * 5000,
        b"--Anki-sync-boundary\r\n" + b"A" * 100_000,
    ],
    ids=["fields", "length", "utf8", "surrogate", "data twice", "header", "headers", "name"],
)
@pytest.mark.parametrize("size", [100, 10**9])
def test_forms_no_client_sends_are_bad_requests(body: bytes, size: int) -> None:
    """Too many fields, too long ones, and what is not text."""
    with pytest.raises(BadRequest):
        read_form(pieces(body, size))


def test_the_longest_field_is_still_read() -> None:
    """The limits are inclusive."""
    fields = {f"x{number}": b"" for number in range(MAX_PARTS - 1)} | {"k": b"x" * MAX_FIELD}
    assert read_form([form(fields)])[0].head.host_key == "x" * MAX_FIELD


def test_what_follows_the_form_is_ignored() -> None:
    """MIME allows an epilogue."""
    assert read_form([WHOLE, b"\r\nepilogue", b"--Anki-sync-boundary\r\n"])[1] == b"x" * 50


def test_content_types_differ_in_case_and_quotes() -> None:
    kind = 'Multipart/Form-Data; charset=utf-8; boundary="Anki-sync-boundary"'
    assert read_form([WHOLE], kind)[0].head.host_key == "hkey"


@pytest.mark.parametrize(
    ("query", "head"),
    [
        (
            b"k=26aef0&v=anki%2C2.1.54+%28b6a7760c%29%2Clinux",
            Head(10, "26aef0", "", "anki,2.1.54 (b6a7760c),linux"),
        ),
        (b"", Head(10, "", "", "")),
        (b"v=x&x=y&k=", Head(10, "", "", "x")),
        (b"k=a&k=b&v=%E6%97%A5", Head(10, "b", "", "日")),
    ],
)
def test_the_query_of_a_get(query: bytes, head: Head) -> None:
    """As engine clients of protocol 10 write it."""
    assert read_query(query) == head


def test_a_query_of_many_fields_is_a_bad_request() -> None:
    with pytest.raises(BadRequest):
        read_query(b"&".join([b"a=1"] * 21))
