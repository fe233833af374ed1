# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which side wins when both changed an object (docs/sync-protocol.md, section 6).

Cards and notes are decided within their statements (`collection.cards.merge`): the
server's own stays if the client has not seen it and its time is later; on a tie the
client's wins, since every client keeps its own card or note on a tie and sends it.
"""


def server_keeps(stored_mod: int, stored_usn: int, received_mod: int, min_usn: int) -> bool:
    """Whether the server keeps its own deck, notetype or deck config; times in s.

    On a tie every client takes what the server sends it, so the server keeps what it
    has sent. A row that the client has seen before is not sent: there a tie means that
    the client changed it again within the same second.
    """
    if stored_mod == received_mod:
        return stored_usn >= min_usn
    return stored_mod > received_mod
