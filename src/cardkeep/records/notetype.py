# SPDX-License-Identifier: AGPL-3.0-or-later
"""A notetype with its fields and templates: rows of schema 18 and legacy JSON.

docs/collection-format.md, 7.3.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from cardkeep.errors import BadRequest
from cardkeep.records.fields import (
    BOOL,
    INT32,
    INT64,
    LOOSE_BOOL,
    OMIT,
    OTHER_LINE,
    TEXT,
    UINT8,
    UINT16,
    UINT32,
    Key,
    Table,
    Unfit,
    array,
    integer,
    lenient,
    named,
    object_id,
    or_null,
    other_keys,
    pack_other,
    tuple_of,
    unpack_other,
    zero_or_one,
)
from cardkeep.records.protobuf import decode, message_class, with_unknown


class Field(msgspec.Struct, frozen=True, gc=False):
    """A row of `fields`; its ord is its position."""

    name: str
    config: bytes


class Template(msgspec.Struct, frozen=True, gc=False):
    """A row of `templates`; its ord is its position, its mtime and usn are 0."""

    name: str
    config: bytes


class Notetype(msgspec.Struct, frozen=True):
    """A row of `notetypes` and its rows of `fields` and `templates`."""

    id: int
    name: str
    mtime_secs: int
    usn: int
    config: bytes
    fields: list[Field]
    templates: list[Template]


Part = TypeVar("Part", Field, Template)

# --- readings of these objects ----------------------------------------------------------

_REQUIREMENTS = ("none", "any", "all")


def _requirement(value: Any) -> dict[str, Any]:
    ord_, kind, fields = tuple_of(UINT16, TEXT, array(UINT16))(value)
    if kind not in _REQUIREMENTS:
        raise Unfit(f"expected one of {', '.join(_REQUIREMENTS)}")
    return {"card_ord": ord_, "kind": _REQUIREMENTS.index(kind), "field_ords": fields}


def _requirements_back(requirements: Any) -> list[list[Any]]:
    return [
        [
            each.card_ord % 65536,
            _REQUIREMENTS[each.kind] if 0 <= each.kind < len(_REQUIREMENTS) else "none",
            [ord_ % 65536 for ord_ in each.field_ords],
        ]
        for each in requirements
    ]


def _unless(nothing: Any) -> Callable[[Any], Any]:
    """The key only for another value."""
    return lambda value: OMIT if value == nothing else value


def _id_or_null(value: int) -> int | None:
    return value or None


def _positive_or_null(value: int) -> int | None:
    return value if value > 0 else None


_INT64_OR_ZERO = lenient(lambda value: INT64(value), 0)

# --- tables -----------------------------------------------------------------------------

_FIELD = Table(
    Key("name", TEXT, column="name"),
    Key("ord", or_null(UINT16), column="ord", absent=None),
    Key("sticky", LOOSE_BOOL, "bool sticky = 1"),
    Key("rtl", LOOSE_BOOL, "bool rtl = 2"),
    Key("font", TEXT, "string font_name = 3"),
    Key("size", UINT16, "uint32 font_size = 4", write=lambda size: size % 65536),
    Key("description", lenient(TEXT, ""), "string description = 5", absent=""),
    Key("plainText", lenient(BOOL, False), "bool plain_text = 6", absent=False),
    Key("collapsed", lenient(BOOL, False), "bool collapsed = 7", absent=False),
    Key("excludeFromSearch", lenient(BOOL, False), "bool exclude_from_search = 8", absent=False),
    Key("id", lenient(INT64, None), "optional int64 id = 9", absent=None),
    Key("tag", lenient(UINT32, None), "optional uint32 tag = 10", absent=None),
    Key("preventDeletion", lenient(BOOL, False), "bool prevent_deletion = 11", absent=False),
)

_TEMPLATE = Table(
    Key("name", TEXT, column="name"),
    Key("ord", or_null(UINT16), column="ord", absent=None),
    Key("qfmt", TEXT, "string q_format = 1"),
    Key("afmt", TEXT, "string a_format = 2", absent=""),
    Key("bqfmt", TEXT, "string q_format_browser = 3", absent=""),
    Key("bafmt", TEXT, "string a_format_browser = 4", absent=""),
    Key("did", _INT64_OR_ZERO, "int64 target_deck_id = 5", absent=0, write=_positive_or_null),
    Key("bfont", lenient(TEXT, ""), "string browser_font_name = 6", absent=""),
    Key(
        "bsize",
        lenient(UINT8, 0),
        "uint32 browser_font_size = 7",
        absent=0,
        write=lambda size: size % 256,
    ),
    Key("id", lenient(INT64, None), "optional int64 id = 8", absent=None),
)

_NOTETYPE = Table(
    Key("id", object_id, column="id"),
    Key("name", TEXT, column="name"),
    Key("type", integer(0, 1), "int32 kind = 1", write=zero_or_one),
    Key("mod", INT64, column="mtime_secs"),
    Key("usn", INT32, column="usn"),
    Key("sortf", UINT16, "uint32 sort_field_idx = 2", write=lambda index: index % 65536),
    Key("did", _INT64_OR_ZERO, "int64 target_deck_id = 4", write=_id_or_null),
    Key("tmpls", array(lambda value: value), column="templates"),
    Key("flds", array(lambda value: value), column="fields"),
    Key("css", lenient(TEXT, ""), "string css = 3"),
    Key("latexPre", TEXT, "string latex_pre = 5", absent=""),
    Key("latexPost", TEXT, "string latex_post = 6", absent=""),
    Key("latexsvg", lenient(BOOL, False), "bool latex_svg = 7", absent=False),
    Key(
        "req",
        lenient(array(_requirement), []),
        "repeated CardRequirement reqs = 8",
        absent=[],
        write=_requirements_back,
    ),
    Key("originalStockKind", INT32, "int32 original_stock_kind = 9", absent=0, write=_unless(0)),
    Key(
        "originalId",
        or_null(INT64),
        "optional int64 original_id = 10",
        absent=None,
        write=_unless(None),
    ),
)

message_class(
    "CardRequirement", ["uint32 card_ord = 1", "int32 kind = 2", "repeated uint32 field_ords = 3"]
)
_FieldConfig = message_class("FieldConfig", [*_FIELD.lines(), OTHER_LINE])
_TemplateConfig = message_class("TemplateConfig", [*_TEMPLATE.lines(), OTHER_LINE])
_NotetypeConfig = message_class("NotetypeConfig", [*_NOTETYPE.lines(), OTHER_LINE])


# --- both directions --------------------------------------------------------------------


def from_json(obj: object) -> Notetype:
    """The rows of a notetype in legacy JSON. BadRequest if it is none.

    That its fields and templates have different names is not checked here.
    """
    where = named("notetype", obj)
    columns, config = _read(_NOTETYPE, _NotetypeConfig, obj, where)
    return Notetype(
        id=columns["id"],
        name=columns["name"],
        mtime_secs=columns["mtime_secs"],
        usn=columns["usn"],
        config=config,
        fields=[
            _field(value, f"{where}: field {position}")
            for position, value in enumerate(columns["fields"])
        ],
        templates=[
            _template(value, f"{where}: template {position}")
            for position, value in enumerate(columns["templates"])
        ],
    )


def to_json(notetype: Notetype) -> dict[str, Any]:
    """The legacy JSON of the rows. BadRequest if a blob does not decode."""
    where = f"notetype {notetype.id}"
    columns = {
        "id": notetype.id,
        "name": notetype.name,
        "mtime_secs": notetype.mtime_secs,
        "usn": notetype.usn,
        "fields": _parts_to_json(_FIELD, _FieldConfig, notetype.fields, f"{where}: field"),
        "templates": _parts_to_json(
            _TEMPLATE, _TemplateConfig, notetype.templates, f"{where}: template"
        ),
    }
    return _write(_NOTETYPE, _NotetypeConfig, columns, notetype.config, where)


def keep_unknown(stored: Notetype, received: Notetype) -> Notetype:
    """`received` with the protobuf fields of `stored` that this program does not know.

    Fields and templates are told by their position: moving one forces a one-way sync.
    """
    where = f"notetype {received.id}"
    return msgspec.structs.replace(
        received,
        config=with_unknown(_NotetypeConfig, stored.config, received.config, where),
        fields=_keep_unknown(_FieldConfig, stored.fields, received.fields, where),
        templates=_keep_unknown(_TemplateConfig, stored.templates, received.templates, where),
    )


def sort_index(config: bytes) -> int:
    """The position of the field that notes are sorted by. BadRequest for a broken blob."""
    index: int = decode(_NotetypeConfig, config, "notetype").sort_field_idx  # type: ignore[attr-defined]
    return index


def is_cloze(config: bytes) -> bool | None:
    """Whether notes of this notetype have cards by what is in them, and not one a template.

    None if the blob does not decode.
    """
    try:
        message: Any = decode(_NotetypeConfig, config, "notetype")
    except BadRequest:
        return None
    return bool(message.kind == 1)


def _field(value: Any, where: str) -> Field:
    columns, config = _read(_FIELD, _FieldConfig, value, where)
    return Field(columns["name"], config)


def _template(value: Any, where: str) -> Template:
    columns, config = _read(_TEMPLATE, _TemplateConfig, value, where)
    return Template(columns["name"], config)


def _read(table: Table, kind: Any, value: Any, where: str) -> tuple[dict[str, Any], bytes]:
    if type(value) is not dict:
        raise BadRequest(f"{where}: expected an object")
    kept = table.read(value, where)
    other = pack_other(other_keys(value, table.names, where), where)
    return kept.columns, kind(**kept.fields, other=other).SerializeToString()


def _write(
    table: Table, kind: Any, columns: dict[str, Any], config: bytes, where: str
) -> dict[str, Any]:
    message: Any = decode(kind, config, where)
    return {**unpack_other(message.other, table.names), **table.write(columns, message)}


def _parts_to_json(
    table: Table, kind: Any, parts: Sequence[Field | Template], where: str
) -> list[dict[str, Any]]:
    return [
        _write(
            table, kind, {"name": part.name, "ord": position}, part.config, f"{where} {position}"
        )
        for position, part in enumerate(parts)
    ]


def _keep_unknown(
    kind: Any, stored: Sequence[Part], received: Sequence[Part], where: str
) -> list[Part]:
    return [
        msgspec.structs.replace(new, config=with_unknown(kind, old.config, new.config, where))
        for old, new in zip(stored, received, strict=False)
    ] + list(received[len(stored) :])
