# SPDX-License-Identifier: AGPL-3.0-or-later
"""What packages say about what is in them."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardkeep.errors import BadRequest
from cardkeep.records import package
from cardkeep.records.package import Form, Listed

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
FILES = st.lists(st.tuples(NAMES, st.integers(0, 2**32 - 1), st.binary(min_size=20, max_size=20)))


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@given(FILES, st.sampled_from([1, 7, 1000]))
def test_todays_list_is_read_as_it_was_written(
    files: list[tuple[str, int, bytes]], size: int
) -> None:
    """In whatever pieces it comes."""
    written = b"".join(package.entry(*file) for file in files)
    expected = [Listed(number, *file) for number, file in enumerate(files)]
    assert list(package.read_entries(cut(written, size))) == expected


@given(st.lists(NAMES), st.booleans(), st.sampled_from([None, 1]))
def test_an_older_list_is_read_as_json_is(
    names: list[str], escaped: bool, indent: int | None
) -> None:
    """However it was laid out; ours as well."""
    expected = [Listed(2 * n, name, None, None) for n, name in enumerate(names)]
    pairs = {str(2 * n): name for n, name in enumerate(names)}
    theirs = json.dumps(pairs, ensure_ascii=escaped, indent=indent).encode()
    ours = b"{" + b",".join(package.pair(2 * n, name) for n, name in enumerate(names)) + b"}"
    assert json.loads(ours) == pairs
    for text in (theirs, ours, b"\n " + ours + b" \n"):
        assert list(package.read_pairs(text)) == expected


@pytest.mark.parametrize("form", Form)
def test_forms(form: Form) -> None:
    assert package.meta(form) == b"\x08%c" % form
    assert package.read_meta(package.meta(form)) is form


@pytest.mark.parametrize("content", [b"", b"\x08\x00", b"\x08\x04", b"\x08", b"PK"])
def test_a_form_that_is_unknown_is_refused(content: bytes) -> None:
    with pytest.raises(BadRequest):
        package.read_meta(content)


ENTRY = package.entry("a", 1, b"x" * 20)


@pytest.mark.parametrize(
    "content",
    [
        ENTRY[:-1],
        ENTRY + ENTRY[:1],
        ENTRY + b"\x0a",
        ENTRY + b"\x12\x00",
        b"\x0a\x80",
        b"\x0a\x80\x80\x80\x80\x01",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a\x02\x0a\x05",
        b"\x0a\x03\x0a\x01\xff",
        b"{}",
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_a_damaged_list_of_today_is_refused(content: bytes, size: int) -> None:
    with pytest.raises(BadRequest):
        list(package.read_entries(cut(content, size)))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"}",
        b'{"0":"a"',
        b'{"0":"a",}',
        b'{"0":"a"}}',
        b'{"0":"a"}{"1":"b"}',
        b'{"0" "a"}',
        b'{"0":1}',
        b'{"0":null}',
        b'{"0":["a"]}',
        b'{0:"a"}',
        b'{"00":"a"}',
        b'{"-1":"a"}',
        b'{"1.5":"a"}',
        b'{"a":"a"}',
        b'{"":"a"}',
        '{"١":"a"}'.encode(),
        b'{"9999999999":"a"}',
        b'{"0":"\xff"}',
        b'{"0":"\\ud800"}',
        b'{"0":"\\x"}',
        b'{"0":"a\nb"}',
        b'{"0":"' + b"x" * 10_000 + b'"}',
        b'{"0":"' + b"x" * 20_000_000,
        b'{"' + b"\\" * 20_000_000,
        b"{" + b" " * 20_000_000,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_a_damaged_older_list_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequest):
        list(package.read_pairs(text))


def test_an_empty_list() -> None:
    assert list(package.read_pairs(b" { } ")) == []
    assert list(package.read_entries([])) == []
