# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tables that tie legacy JSON to the columns and protobuf fields of schema 18.

A table is a list of `Key`: the JSON key, how its value is read, where it is kept, and how
it goes back. It drives both directions, and the protobuf messages are made from it, so a
new key of a new client is one line. docs/collection-format.md, 7, has the same tables; its
reading modes are the functions here:

====  ======================================================================
S     `integer`, `BOOL`, `TEXT`, `NUMBER`, ...: the type and range, or an error
D x   `lenient(reading, x)`: x if it is anything else
N     `number_or_text`: an integer, or text that holds one
B*    `LOOSE_BOOL`: what several clients took for a truth value
====  ======================================================================
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

import msgspec
from google.protobuf.message import Message

from cardkeep.errors import BadRequest
from cardkeep.records.numbers import INT64_MAX, INT64_MIN, shortest, single
from cardkeep.records.protobuf import field_name

#: Bytes of one object (or field, template, configuration value). The largest templates and
#: style sheets seen have a megabyte or two, with fonts and scripts in them.
LARGEST_OBJECT: Final = 8 * 1024 * 1024

# Clients parse at most 128 levels, and the objects travel within up to six.
_MAX_DEPTH = 120
# Twenty digits are more than 64 bits hold, and Python refuses to read thousands.
_INTEGER_TEXT = re.compile("([+-]?)0*([0-9]{1,20})")
# Unknown keys, as JSON text; the same in all messages that have it.
OTHER_LINE: Final = "bytes other = 255"


class Unfit(ValueError):
    """A JSON value is not what its key takes; the text says what is expected."""


class _Mark:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


# The key must be there.
REQUIRED: Final = _Mark("REQUIRED")
# Returned by `Key.write`: the key does not appear.
OMIT: Final = _Mark("OMIT")

Reading = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One JSON key.

    `line` is the protobuf field that keeps the value, as in a .proto file, and `second` one
    more if the value is a pair; or `column` is the column of the row; or there is neither,
    and the value is dropped. `read` makes the kept value of the JSON value or raises Unfit;
    `absent` is kept when the key is missing; `write` makes the JSON value of the kept one.
    None stands for an optional field that is not set.
    """

    name: str
    read: Reading
    line: str = ""
    second: str = ""
    column: str = ""
    absent: Any = REQUIRED
    write: Callable[[Any], Any] | None = None
    # The names in the lines.
    fields: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = tuple(field_name(line) for line in (self.line, self.second) if line)
        object.__setattr__(self, "fields", names)


@dataclass(slots=True)
class Kept:
    """What was read from an object: values of columns and of protobuf fields, by name."""

    columns: dict[str, Any]
    fields: dict[str, Any]


class Table:
    """Keys of one JSON object."""

    def __init__(self, *keys: Key) -> None:
        self.keys: Sequence[Key] = keys
        self.names = frozenset(key.name for key in keys)
        # What `read` does with each, put together once.
        self._readings = tuple(
            (key.name, key.read, key.absent, key.column, key.fields, bool(key.second))
            for key in keys
        )
        self._writings = tuple((key.name, key.column, *_whence(key), key.write) for key in keys)

    def lines(self) -> Iterable[str]:
        """The protobuf fields, `other` not among them."""
        return (line for key in self.keys for line in (key.line, key.second) if line)

    def read(self, json: Mapping[str, Any], where: str) -> Kept:
        """What is kept of the object; BadRequest, with `where` and the key, if it is wrong."""
        columns: dict[str, Any] = {}
        fields: dict[str, Any] = {}
        for name, read, absent, column, names, is_pair in self._readings:
            if name in json:
                try:
                    value = read(json[name])
                except (Unfit, BadRequest) as error:
                    raise BadRequest(f"{where}: {name}: {error}") from error
            elif absent is REQUIRED:
                raise BadRequest(f"{where}: {name} is missing")
            else:
                value = absent
            if column:
                columns[column] = value
            elif value is None or not names:
                pass
            elif is_pair:
                fields[names[0]], fields[names[1]] = value
            else:
                fields[names[0]] = value
        return Kept(columns, fields)

    def write(self, columns: Mapping[str, Any], message: Message) -> dict[str, Any]:
        """The JSON object, without the keys that came with `other`."""
        json = {}
        for name, column, get, optional, write in self._writings:
            value = None
            if column:
                value = columns[column]
            elif get is not None and (not optional or message.HasField(optional)):
                value = get(message)
            if write is not None:
                value = write(value)
                if value is OMIT:
                    continue
            json[name] = value
        return json


def _whence(key: Key) -> tuple[Callable[[Message], Any] | None, str]:
    """What gets the kept value out of a message, and the name of the field if it may be unset."""
    if not key.fields:
        return None, ""
    has_presence = key.line.startswith("optional ") or key.line[0].isupper()
    return attrgetter(*key.fields), key.fields[0] if has_presence else ""


# --- reading modes ----------------------------------------------------------------------


def integer(low: int, high: int) -> Reading:
    """S: an integer within the range, its ends included."""

    def read(value: Any) -> int:
        if type(value) is int and low <= value <= high:
            return value
        raise _unfit(f"an integer from {low} to {high}", value)

    return read


def number_or_text(low: int, high: int) -> Reading:
    """N: an integer within the range, or text that holds one."""
    strict = integer(low, high)

    def read(value: Any) -> Any:
        return strict(value if type(value) is int else _number_in(value))

    return read


INT64: Final = integer(INT64_MIN, INT64_MAX)
INT32: Final = integer(-(2**31), 2**31 - 1)
UINT32: Final = integer(0, 2**32 - 1)
UINT16: Final = integer(0, 65535)
UINT8: Final = integer(0, 255)
INT64_OR_TEXT: Final = number_or_text(INT64_MIN, INT64_MAX)


def object_id(value: Any) -> Any:
    """N: an id, which is never 0."""
    number = INT64_OR_TEXT(value)
    if number == 0:
        raise Unfit("expected an id, got 0")
    return number


def BOOL(value: Any) -> bool:  # noqa: N802 - a reading like the constants
    """S: true or false."""
    if type(value) is bool:
        return value
    raise _unfit("true or false", value)


def LOOSE_BOOL(value: Any) -> bool:  # noqa: N802 - a reading like the constants
    """B*: true, false, 0, 1, or text that says one of them."""
    if type(value) is str and value.lower() in ("true", "false"):
        return value.lower() == "true"
    number = _number_in(value)
    if type(number) in (bool, int, float) and number in (0, 1):
        return bool(number)
    raise _unfit("true or false", value)


def TEXT(value: Any) -> str:  # noqa: N802 - a reading like the constants
    """S: text. Half a surrogate pair is none, whatever the mode."""
    if type(value) is not str:
        raise _unfit("text", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadRequest(f"a lone surrogate at position {error.start} of a text") from error
    return value


def NUMBER(value: Any) -> float:  # noqa: N802 - a reading like the constants
    """S: an integer or float, rounded to single precision."""
    # The clients take a negative zero for the default, the library does not.
    return _single(value) + 0.0


def array(element: Reading) -> Reading:
    """S: a list whose elements are all fit."""

    def read(value: Any) -> list[Any]:
        if type(value) is not list:
            raise _unfit("a list", value)
        return [element(each) for each in value]

    return read


def _single(value: Any) -> float:
    if type(value) is float or type(value) is int:
        try:
            rounded = single(float(value))
        except OverflowError:
            rounded = math.inf
        if math.isfinite(rounded):
            return rounded
    raise _unfit("a number of single precision", value)


#: S: a list of numbers.
NUMBERS: Final = array(_single)


def tuple_of(*elements: Reading) -> Reading:
    """S: a list of exactly these elements."""

    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(elements):
            raise _unfit(f"a list of {len(elements)}", value)
        return tuple(read(each) for read, each in zip(elements, value, strict=True))

    return read


def or_null(reading: Reading) -> Reading:
    """The same, or null, which is None."""
    return lambda value: None if value is None else reading(value)


def lenient(reading: Reading, default: Any) -> Reading:
    """D: the default for whatever is not fit."""

    def read(value: Any) -> Any:
        if value is default is None:
            return None  # as all clients write what is not set; an error costs more than the rest
        try:
            return reading(value)
        except Unfit:
            return default

    return read


def anything(value: Any) -> Any:
    """The value as it is."""
    return value


def mapping(value: Any) -> dict[str, Any]:
    """S: an object."""
    if type(value) is dict:
        return value
    raise _unfit("an object", value)


def _number_in(value: Any) -> Any:
    """The integer in a text; anything else as it is."""
    match = _INTEGER_TEXT.fullmatch(value) if type(value) is str else None
    return int(match[1] + match[2]) if match else value


def named(kind: str, json: object) -> str:
    """What an error calls the object: its kind, and its id if it has a sane one."""
    number = json.get("id") if isinstance(json, dict) else None
    return kind if number is None else f"{kind} {_shown(number)}"


def _unfit(expected: str, value: Any) -> Unfit:
    return Unfit(f"expected {expected}, got {_shown(value)}")


def _shown(value: Any) -> str:
    # Never the value itself if it may be long, deep, or someone's text.
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**64):
        return repr(value)
    return _SHOWN.get(type(value), "something else")


_SHOWN = {
    dict: "an object",
    int: "a huge integer",
    list: "a list",
    str: "text",
    type(None): "null",
}


# --- ways back --------------------------------------------------------------------------


def number_back(value: float) -> float:
    """A single-precision number as JSON has it; 0.0 for what JSON has no words for."""
    return shortest(value) if math.isfinite(value) else 0.0


def numbers_back(values: Iterable[float]) -> list[float]:
    """A list of such numbers; empty, which means the default, if one of them is none."""
    found = list(values)
    return [shortest(value) for value in found] if all(map(math.isfinite, found)) else []


def zero_or_one(value: int | bool) -> int:
    """1 for 1 and true, else 0."""
    return int(value == 1)


# --- keys that nobody here knows --------------------------------------------------------


def other_keys(json: Mapping[str, Any], known: Collection[str], where: str) -> dict[str, Any]:
    """The keys that no table names; BadRequest for what clients could not read back."""
    other = {name: value for name, value in json.items() if name not in known}
    for name, value in other.items():
        # The name is the client's own, and the log wants short lines.
        _check_json(value, f"{where}: {name!a:.60}", 1)
    return other


def pack_other(other: Mapping[str, Any], where: str) -> bytes:
    """The content of field 255; nothing if there are no other keys."""
    if not other:
        return b""
    try:
        return msgspec.json.encode(other)
    except UnicodeEncodeError as error:
        raise BadRequest(f"{where}: a lone surrogate in a key or text") from error


def unpack_other(blob: bytes, reserved: Collection[str]) -> dict[str, Any]:
    """The keys in field 255 but for the reserved ones; none if it is no JSON object.

    Nor are there any that clients could not read, which only an upload can have brought.
    """
    if not blob:
        return {}
    try:
        other = msgspec.json.decode(blob)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    if type(other) is not dict:
        return {}
    return {name: value for name, value in other.items() if name not in reserved and _fits(value)}


def _fits(value: Any) -> bool:
    try:
        _check_json(value, "", 1)
    except BadRequest:
        return False
    return True


def _check_json(value: Any, where: str, depth: int) -> None:
    kind = type(value)
    if kind is dict or kind is list:
        if depth > _MAX_DEPTH:
            raise BadRequest(f"{where}: nested deeper than {_MAX_DEPTH} levels")
        for each in value.values() if kind is dict else value:
            _check_json(each, where, depth + 1)
    elif kind is int:
        if not INT64_MIN <= value < 2**64:
            raise BadRequest(f"{where}: an integer of more than 64 bits")
    elif kind is float and not math.isfinite(value):
        raise BadRequest(f"{where}: not a number of JSON")
