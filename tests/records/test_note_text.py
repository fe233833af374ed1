# SPDX-License-Identifier: AGPL-3.0-or-later
"""The plain text of fields. What the real engine makes of it is in test_note and test_engine."""

import re
import subprocess
import sys
from html.entities import name2codepoint

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cardkeep.records.note_text import strip
from tests.records import vectors

# The first two steps as the clients have them: expressions that may backtrack for ever, which
# is why they are fit for short texts only. `\w` is near enough for the letters used here.
S = "[sS\u017f]"
MEDIA = re.compile(
    f"""<(?:[iI]mg|audio|video|object|{S}ource)(?!\\w)
    (?:[^>]|"[^"]+?"|'[^']+?')+?
    (?<!\\w)(?:{S}rc|data)=
    (?:"([^"]+?)"[^>]*>|'([^']+?)'[^>]*>|([^>]+?)(?:\\x20[^>]*>|>))""",
    re.VERBOSE,
)
TAGS = re.compile(
    f"<!--.*?-->|<{S}tyle.*?>.*?</{S}tyle>|<{S}cript.*?>.*?</{S}cript>|<.*?>", re.DOTALL
)


def naive(text: str) -> str:
    text = MEDIA.sub(lambda match: f" {match[1] or match[2] or match[3]} ", text)
    return TAGS.sub("", text)


PIECES = st.lists(
    st.sampled_from(
        [
            *("<img", "<Img", "<audio", "<source", "<\u017fource", "<object", "<images", "<img>"),
            *(
                "src=",
                "\u017frc=",
                "data=",
                "xsrc=",
                "-src=",
                "src",
                "src=a",
                'src="a"',
                "data='b'",
            ),
            *('"', "'", '""', "''", '"x"', ">", "<", " ", "\n", "x", "=", "/", "é"),
            *("<!--", "-->", "--", "<style", "</style>", "<script>", "</script>", "<\u017fcript"),
        ]
    ),
    max_size=14,
).map("".join)


@settings(max_examples=1500)
@given(PIECES)
@example('<img "><img src=a">')
@example("<img '\"'>\"src=a>")
@example('<img a"b>c"d src=e>')
@example("""<img "'">' src=x '>" src=y>""")
def test_markup_goes_as_in_the_backtracking_search(text: str) -> None:
    """The search in linear time finds what the clients' own expressions find."""
    assert strip(text) == naive(text)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("", ""),
        ("a < b", "a < b"),
        ("<b>bold</b>, plain", "bold, plain"),
        ('<img src="a b.jpg">', " a b.jpg "),
        ("<IMG class=x SRC=a.jpg alt=y>z", " a.jpg z"),
        ("<img alt='>' src='a.jpg'>", " a.jpg "),
        ("<img src = a.jpg>", ""),
        ("<img datasrc=a.jpg>", ""),
        ("<img src=>", ""),
        ("<img src=a.jpg", "<img src=a.jpg"),
        ("x<!-- <b> -->y", "xy"),
        ("<style>b { }</style>y<script>1 > 0</script>z", "yz"),
        ("<style>never closed", "never closed"),
        ("a&nbsp;b", "a b"),
        ("a\xa0b", "a\xa0b"),
        ("a\xa0b &amp; c", "a b & c"),
        ("&lt;b&gt;", "<b>"),
        ("&#65;&#x42;&#x0000043;", "ABC"),
        ("&apos;&amp;", "&apos;&amp;"),
        ("&amp;&", "&amp;&"),
        ("&amp;&#X41;", "&amp;&#X41;"),
        ("&amp;&#xD800;", "&amp;&#xD800;"),
        ("&amp;&#1114112;", "&amp;&#1114112;"),
        ("&amp;amp;", "&amp;"),
        ("&" + "#" + "0" * 5000 + "65;", "A"),
        ("&#" + "9" * 5000 + ";&amp;", "&#" + "9" * 5000 + ";&amp;"),
    ],
)
def test_text_is_stripped(text: str, plain: str) -> None:
    """Names of files stay, tags go, entities are decoded all or none."""
    assert strip(text) == plain


def test_the_engines_entities_are_pythons() -> None:
    """The 252 of HTML 4, each of which is decoded."""
    recorded = vectors.load("html-entities.json")
    assert recorded == name2codepoint
    for name, code in recorded.items():
        assert strip(f"&{name};") == chr(code).replace("\xa0", " ")


@given(st.text(st.characters(exclude_characters="<&")))
def test_text_without_markup_stays(text: str) -> None:
    """Whatever else is in it, no-break spaces too."""
    assert strip(text) == text


HOSTILE = """
import resource
from cardkeep.records.note_text import strip

resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
words = [
    *["<img ", "<", '"', "'", '<img "', "<img '", '<img "\\'', '<img src="', "<img src="],
    *["<img src=>", "<img a>", '<img a">', '<img \\'>"', "<source>", "src=", "xsrc=", "data=>"],
    *["<img src=a ", "<img src='a ", '"\\'>', '"" ', ">", "<!--", "--", "<style", "<style>"],
    *["</style", "<script>", "</script ", "&", "&#", "&#x", "&amp;", "&amp"],
]
for word in words:
    for before in "", '<img "':
        for after in "", ">", "' src=a>":
            strip(before + word * (200_000 // len(word)) + after)
"""


def test_no_text_takes_longer_than_its_length() -> None:
    """Some 200 hostile texts of 200 kB take seconds of CPU; a single quadratic one, minutes."""
    subprocess.run([sys.executable, "-c", HOSTILE], check=True)
