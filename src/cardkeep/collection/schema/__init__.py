# SPDX-License-Identifier: AGPL-3.0-or-later
"""The two forms of a collection file, and the ways into the one that is stored.

What the server keeps is schema 18; clients of protocol 8 to 10 send and get schema 11
(docs/collection-format.md). `tables` says what belongs to each form, `create` makes a new
collection, `inspect` decides about an upload, `upgrade` and `downgrade` convert. All of them
work on a private file, which the caller then puts into place or sends: locks, copies of what
is replaced, and flushing are not known here.

Start reading at `tables`, then `inspect`.
"""
