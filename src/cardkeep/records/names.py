# SPDX-License-Identifier: AGPL-3.0-or-later
"""Names of decks and tags (docs/collection-format.md, 6.2; docs/sync-protocol.md, 6.5).

Both have levels. People and JSON separate them with `::`; the table of decks with U+001F,
so that a deck sorts right before its children.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache

_NATIVE_SEPARATOR = "\x1f"
_HUMAN_SEPARATOR = "::"
_EMPTY_PART = "blank"

_CONTROL = re.compile("[\x00-\x1f\x7f]+")
_NOT_IN_TAGS = re.compile("[\x00-\x20\x7f\u3000]+")
# Unicode's White_Space. `str.isspace` and a bare `strip` differ: they count U+001C-001F.
_WHITE_SPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


def deck_native(human: str) -> str:
    """The name as the table holds it, every level cleaned: `a:: b` is `a` U+001F `b`."""
    # The same few names come with every sync; long ones are not worth remembering.
    return _remembered(human) if len(human) <= _SHORT else _native(human)


def _native(human: str) -> str:
    return _NATIVE_SEPARATOR.join(map(_deck_part, human.split(_HUMAN_SEPARATOR)))


_SHORT = 200
_remembered = lru_cache(maxsize=2048)(_native)


def deck_human(native: str) -> str:
    """The name as people and JSON have it."""
    return native.replace(_NATIVE_SEPARATOR, _HUMAN_SEPARATOR)


def free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """The name with as many `+` as it takes, as every client does it."""
    while is_taken(name):
        name += "+"
    return name


def normalized_tag(name: str) -> str:
    """The tag as it is stored when nothing like it exists yet."""
    return _HUMAN_SEPARATOR.join(map(_tag_part, name.split(_HUMAN_SEPARATOR)))


def tag_parents(name: str) -> Iterator[str]:
    """The tags above a normalized one, longest first: `a::b`, `a` for `a::b::c`.

    A new tag takes over the stored spelling of the first of them that exists.
    """
    end = name.rfind(_HUMAN_SEPARATOR)
    while end > 0:
        yield name[:end]
        end = name.rfind(_HUMAN_SEPARATOR, 0, end)


def _deck_part(part: str) -> str:
    cleaned = _CONTROL.sub("", unicodedata.normalize("NFC", part))
    return cleaned.strip(_WHITE_SPACE + ":") or _EMPTY_PART


def _tag_part(part: str) -> str:
    cleaned = _NOT_IN_TAGS.sub("", unicodedata.normalize("NFC", part))
    return cleaned.strip(_WHITE_SPACE) or _EMPTY_PART
