# SPDX-License-Identifier: AGPL-3.0-or-later
"""The plain text of a field: what notes are sorted by and told apart by.

`strip` follows docs/sync-protocol.md, 6.8, in three steps: media references leave their
file name behind, tags vanish, entities are decoded. The clients compute the same for
their own columns, so it must agree with theirs on malformed markup too. Their first step
is a backtracking search; here each step takes time in proportion to the text, whatever
the text is.
"""

import re
import unicodedata
from html.entities import name2codepoint

# Simple case folding: U+017F matches "s". `re.IGNORECASE` would also let dotted and
# dotless i match, so that all letters are spelled out.
_S = "[sS\u017f]"
_MEDIA_TAG = re.compile(
    "<(?:[iI][mM][gG]|[aA][uU][dD][iI][oO]|[vV][iI][dD][eE][oO]"
    f"|[oO][bB][jJ][eE][cC][tT]|{_S}[oO][uU][rR][cC][eE])"
)
_ATTRIBUTE = re.compile(f"(?:{_S}[rR][cC]|[dD][aA][tT][aA])=[^>]")
_WITH_CONTENT = re.compile(
    f"<(?:(?P<comment>!--)|(?P<style>{_S}[tT][yY][lL][eE])|{_S}[cC][rR][iI][pP][tT])"
)
_STYLE_END = re.compile(f"</{_S}[tT][yY][lL][eE]>")
_SCRIPT_END = re.compile(f"</{_S}[cC][rR][iI][pP][tT]>")
_COMMENT_END = re.compile("-->")
_TAG = re.compile("<[^>]*>")
_ENTITY = re.compile("&(?:#(?:x([0-9a-fA-F]+)|([0-9]+))|([0-9A-Za-z]+));|&")

_WORD_CATEGORIES = frozenset(("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "Pc"))
# Alphabetic by Unicode though their category is "other symbol", and the two joiners.
_MORE_WORD_CHARACTERS = re.compile(
    "[\u24b6-\u24e9\U0001f130-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189\u200c\u200d]"
)


def strip(text: str) -> str:
    """The text without markup, file names of media kept, entities decoded."""
    if "<" in text:
        text = _without_tags(_with_media_names(text))
    if "&" in text:
        text = _decoded(text)
    return text


# --- media references -------------------------------------------------------------------


def _with_media_names(text: str) -> str:
    start = _MEDIA_TAG.search(text)
    if start is None:
        return text
    search = _MediaSearch(text)
    pieces: list[str] = []
    done = 0
    while start is not None:
        found = search.reference(start.end())
        if found is None:
            start = _MEDIA_TAG.search(text, start.end())
            continue
        name, end = found
        pieces += (text[done : start.start()], " ", name, " ")
        done = end
        start = _MEDIA_TAG.search(text, end)
    pieces.append(text[done:])
    return "".join(pieces)


class _MediaSearch:
    """Finds the attribute that names a tag's file.

    From the end of the tag's name the search takes either one character other than `>`
    or a whole quoted string (which may hold `>`), and tests for the attribute wherever it
    gets to. Single characters come first, so it runs up to the next `>`; then it goes back
    to the last string that leads past that `>`, and on from its end. The text between two
    `>` is one stretch, searched as a whole, and only its last double and its last single
    quote can lead out of it. A position from which nothing was found need not be tried
    again, whatever tag the search began with; thus every stretch is read a few times at most.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._last_close = text.rfind(">")
        self._close = -1
        # End of a stretch -> the first position of it that was searched in vain.
        self._failed_from: dict[int, int] = {}

    def reference(self, name_end: int) -> tuple[str, int] | None:
        """The file name and where the tag ends; None if this is no reference.

        Tags must be asked for in the order of the text.
        """
        if name_end >= self._last_close or _is_word(self._text[name_end]):
            return None
        if name_end > self._close:
            self._close = self._text.find(">", name_end)
        # What follows the name is no letter, so no attribute begins right there.
        waiting = [(name_end, self._close)]
        while waiting:
            start, end = waiting.pop()
            stop = self._failed_from.get(end, end)
            if start >= stop:
                continue
            value = self._attribute(start, stop, end)
            if value >= 0:
                return self._value(value)
            self._failed_from[end] = start
            waiting += self._ways_out(start, stop, end)
        return None

    def _attribute(self, start: int, stop: int, end: int) -> int:
        """Where the value of the first attribute is that begins in start..stop; or -1."""
        end = min(end, stop + len("data="))
        found = _ATTRIBUTE.search(self._text, start, end)
        while found is not None:
            if not _is_word(self._text[found.start() - 1]):
                return found.end() - 1
            found = _ATTRIBUTE.search(self._text, found.start() + 1, end)
        return -1

    def _ways_out(self, start: int, stop: int, end: int) -> list[tuple[int, int]]:
        """Where the strings that open in start..stop lead to beyond `end`, the first last.

        As pairs: the position after the string and the end of its stretch.
        """
        text = self._text
        ways = []
        for quote in "\"'":
            opening = text.rfind(quote, start, stop)
            closing = text.find(quote, opening + 1) if opening >= 0 else -1
            if end < closing < self._last_close:
                ways.append((opening, closing + 1))
        ways.sort()
        return [(after, text.index(">", after)) for _, after in ways]

    def _value(self, start: int) -> tuple[str, int]:
        text = self._text
        quote = text[start]
        if quote in "\"'":
            closing = text.find(quote, start + 1, self._last_close)
            if closing > start + 1:
                return text[start + 1 : closing], text.index(">", closing) + 1
        close = text.index(">", start + 1)
        space = text.find(" ", start + 1, close)
        return text[start : close if space < 0 else space], close + 1


# --- tags -------------------------------------------------------------------------------


def _without_tags(text: str) -> str:
    last_close = text.rfind(">") + 1
    if _WITH_CONTENT.search(text, 0, last_close) is None:
        # Every `<` up to there has its `>`, so none is searched for in vain.
        return _TAG.sub("", text[:last_close]) + text[last_close:]
    # What is not found once will not be found further on.
    missing: set[re.Pattern[str]] = set()
    pieces: list[str] = []
    done = 0
    start = text.find("<", 0, last_close)
    while start >= 0:
        pieces.append(text[done:start])
        done = _end_of_element(text, start, missing)
        start = text.find("<", done, last_close)
    pieces.append(text[done:])
    return "".join(pieces)


def _end_of_element(text: str, start: int, missing: set[re.Pattern[str]]) -> int:
    """Where the comment, style, script or tag ends that begins at `start`."""
    opening = _WITH_CONTENT.match(text, start)
    if opening is not None:
        if opening["comment"]:
            content, closing = opening.end(), _COMMENT_END
        else:
            content = text.index(">", opening.end()) + 1
            closing = _STYLE_END if opening["style"] else _SCRIPT_END
        if closing not in missing:
            found = closing.search(text, content)
            if found is not None:
                return found.end()
            missing.add(closing)
    return text.index(">", start) + 1


# --- entities ---------------------------------------------------------------------------


class _WrongEntityError(ValueError):
    """An `&` that begins no entity."""


def _decoded(text: str) -> str:
    """All entities decoded, or none if one of them is wrong."""
    try:
        decoded = _ENTITY.sub(_character, text)
    except _WrongEntityError:
        return text
    return decoded.replace("\xa0", " ")


def _character(match: re.Match[str]) -> str:
    hexadecimal, decimal, name = match.groups()
    if name is not None:
        code = name2codepoint.get(name)
    elif decimal is not None:
        code = _scalar(decimal, 10)
    elif hexadecimal is not None:
        code = _scalar(hexadecimal, 16)
    else:
        code = None
    if code is None:
        raise _WrongEntityError
    return chr(code)


def _scalar(digits: str, base: int) -> int | None:
    significant = digits.lstrip("0")
    # Python refuses to read thousands of digits, and no character has more than seven.
    code = int(significant or "0", base) if len(significant) <= 7 else -1
    return code if 0 <= code < 0xD800 or 0xE000 <= code <= 0x10FFFF else None


# --- characters -------------------------------------------------------------------------


def _is_word(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character == "_"
    return (
        unicodedata.category(character) in _WORD_CATEGORIES
        or _MORE_WORD_CHARACTERS.match(character) is not None
    )
