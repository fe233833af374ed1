# SPDX-License-Identifier: AGPL-3.0-or-later
"""Protobuf messages made from the lines of the tables, and what we do not know of them.

The blobs of schema 18 are proto3 (docs/collection-format.md, 7.0). The library writes what
the clients write: fields in ascending order, defaults left out, unknown fields kept.
"""

import re
from collections.abc import Iterable

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from cardkeep.errors import BadRequest

_PACKAGE = "cardkeep.records"
_LINE = re.compile(r"(?:(optional|repeated) )?(\w+) (\w+) = (\d+)")
_Proto = descriptor_pb2.FieldDescriptorProto
# Enums are written as int32, which looks the same: they are open, any number is kept.
_TYPES = {
    "bool": _Proto.TYPE_BOOL,
    "bytes": _Proto.TYPE_BYTES,
    "float": _Proto.TYPE_FLOAT,
    "int32": _Proto.TYPE_INT32,
    "int64": _Proto.TYPE_INT64,
    "string": _Proto.TYPE_STRING,
    "uint32": _Proto.TYPE_UINT32,
}
# Not the library's default pool, where another package could use the same names.
_POOL = descriptor_pool.DescriptorPool()


def message_class(name: str, lines: Iterable[str], *, oneof: str = "") -> type[Message]:
    """The class of a message with the fields of `lines`, each as in a .proto file.

    A type that is not a number, text or bytes is the name of a message made before. With
    `oneof`, at most one of the fields is set, and that name tells which.
    """
    file = descriptor_pb2.FileDescriptorProto(name=name, package=_PACKAGE, syntax="proto3")
    message = file.message_type.add(name=name)
    if oneof:
        message.oneof_decl.add(name=oneof)
    for line in lines:
        _add_field(file, message, line, in_oneof=bool(oneof))
    _POOL.Add(file)
    descriptor = _POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}")
    return message_factory.GetMessageClass(descriptor)


def field_name(line: str) -> str:
    """The name in a line such as `optional int64 id = 9`."""
    return _parsed(line)[2]


def decode(kind: type[Message], blob: bytes, what: str) -> Message:
    """The message in a blob; BadRequest, naming `what`, if there is none."""
    message = kind()
    try:
        message.ParseFromString(blob)
    except DecodeError as error:
        raise BadRequest(f"{what}: not a {kind.DESCRIPTOR.name} message") from error
    return message


def with_unknown(kind: type[Message], stored: bytes, received: bytes, what: str) -> bytes:
    """`received`, together with the fields of `stored` that `kind` does not know.

    What was stored may be broken, which is no reason to refuse its replacement. BadRequest,
    naming `what`, if `received` is.
    """
    new = decode(kind, received, what)
    if stored == received:
        return received
    try:
        old = decode(kind, stored, what)
    except BadRequest:
        return received
    if not _carry_over(old, new):
        return received
    return new.SerializeToString()


def _carry_over(old: Message, new: Message) -> bool:
    """Whether there was anything to carry over."""
    carried = False
    rest = type(old)()
    rest.CopyFrom(old)
    for field, value in old.ListFields():
        rest.ClearField(field.name)
        # Elements of lists have no identity by which to find the new one.
        single = field.type == FieldDescriptor.TYPE_MESSAGE and isinstance(value, Message)
        if single and new.HasField(field.name):
            carried |= _carry_over(value, getattr(new, field.name))
    unknown = rest.SerializeToString()
    if unknown:
        new.MergeFromString(unknown)
    return carried or bool(unknown)


def _add_field(
    file: descriptor_pb2.FileDescriptorProto,
    message: descriptor_pb2.DescriptorProto,
    line: str,
    *,
    in_oneof: bool,
) -> None:
    label, kind, name, number = _parsed(line)
    field = message.field.add(name=name, number=int(number), label=_Proto.LABEL_OPTIONAL)
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type = _Proto.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"
        file.dependency.append(kind)
    if label == "repeated":
        field.label = _Proto.LABEL_REPEATED
    elif label == "optional":
        # That is how proto3 tells a default from nothing.
        field.proto3_optional = True
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{name}")
    elif in_oneof:
        field.oneof_index = 0


def _parsed(line: str) -> tuple[str | None, str, str, str]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"not a line of a message: {line!r}")
    label, kind, name, number = match.groups()
    return label, kind, name, number
