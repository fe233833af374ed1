# SPDX-License-Identifier: AGPL-3.0-or-later
"""Anki's things, and the forms they travel and rest in.

This room turns what clients send (row arrays of cards, notes and reviews; the legacy JSON
of decks, deck configs and notetypes) into the values of schema 18's columns, and back. It
also holds the rules that belong to a single value: names, the `unicase` order, the sort
field of a note. It is pure: no files, no SQL, no clock, and it knows of no other object
than the one in hand, so making names unique or comparing times is left to `sync` and
`collection`.

Whatever is not as docs/collection-format.md and docs/sync-protocol.md say ends in
`errors.BadRequest`.

Start with `card` (rows) and `deck` (JSON and protobuf, both driven by the tables that
`fields` explains).
"""
