# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bytes to messages and back, for every version of the protocol; no input or output.

Here live the two framings (`direct` for protocol 11, `multipart` for 8 to 10), the JSON
of each method (`collection_json`, `media_json`) and the zips of media (`media_zip`); bounded
decoders are in `packing`. What a message means is left to `sync`, where its bytes come from
to `http`. Start with `request.METHODS`, the table of all methods, and `answer`.
The facts are those of docs/sync-protocol.md, sections 1.3, 1.4, 3, 4 and 9.
"""
