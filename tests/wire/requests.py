# SPDX-License-Identifier: AGPL-3.0-or-later
"""Requests as clients write them, and a reader that takes them in pieces of any size."""

import gzip
import json
from collections.abc import Iterable, Mapping

import zstandard

from cardkeep.packing.compression import Gzip, Plain, Unpacker, Zstd
from cardkeep.wire.direct import read_head
from cardkeep.wire.multipart import Form, FormReader
from cardkeep.wire.request import Head

BOUNDARY = "Anki-sync-boundary"
FORM_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def sync_header(v: object = 11, k: object = "key", c: object = "client", s: object = "sess") -> str:
    return json.dumps({"v": v, "k": k, "c": c, "s": s}, separators=(",", ":"))


def zstd_frame(payload: bytes, level: int = 3) -> bytes:
    """As engine clients write it: streamed, so without content size and checksum."""
    packer = zstandard.ZstdCompressor(level=level, write_content_size=False).compressobj()
    return packer.compress(payload) + packer.flush()


def form(fields: Mapping[str, bytes], boundary: str = BOUNDARY) -> bytes:
    """A form with the fields in this order; `data` has a file name, as every client gives it."""
    parts = []
    for name, value in fields.items():
        extra = '; filename="data"\r\nContent-Type: application/octet-stream'
        disposition = f'form-data; name="{name}"{extra if name == "data" else ""}'
        parts.append(
            f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + value + b"\r\n"
        )
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def zipped(payload: bytes) -> bytes:
    return gzip.compress(payload, mtime=0)


def pieces(body: bytes, size: int) -> Iterable[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


def unpacked(unpacker: Unpacker, packed: Iterable[bytes]) -> bytes:
    payload = b"".join(piece for data in packed for piece in unpacker.feed(data))
    unpacker.finish()
    return payload


def read_direct(header: str, packed: Iterable[bytes]) -> tuple[Head, bytes]:
    return read_head(header.encode()), unpacked(Zstd(), packed)


def read_form(body: Iterable[bytes], content_type: str = FORM_TYPE) -> tuple[Form, bytes]:
    """The form, and its payload once `c` is known."""
    reader = FormReader(content_type.encode())
    data = [reader.feed(piece) for piece in body]
    read = reader.finish()
    return read, unpacked(Gzip() if read.gzipped else Plain(), data)
