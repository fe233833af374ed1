# SPDX-License-Identifier: AGPL-3.0-or-later
"""The third framing, of one method: `GET begin?k=…&v=…` (docs/sync-protocol.md, 1.4 and 9.1).

Engine clients of protocol 10 open a media sync so, and use forms for the rest of it.
"""

from urllib.parse import parse_qs

from cardkeep.errors import BadRequest
from cardkeep.wire.request import Head
from cardkeep.wire.versions import FORM

MAX_FIELDS = 20


def read_query(query: bytes) -> Head:
    """The head; texts are empty where absent. Raises BadRequest for more than MAX_FIELDS."""
    try:
        fields = parse_qs(query.decode("latin-1"), max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise BadRequest(f"query: {error}") from None
    key, client = (fields.get(name, [""])[-1] for name in ("k", "v"))
    return Head(FORM, key, "", client)
