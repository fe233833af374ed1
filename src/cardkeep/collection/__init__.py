# SPDX-License-Identifier: AGPL-3.0-or-later
"""One user's collection: everything that is SQL on `collection.anki2`, and what is kept beside it.

`library` lends an open collection to one holder at a time; `database` prepares each
connection; there is a file per table with all its SQL; `schema/` makes new collections,
inspects uploads and converts between schema 11 and 18. `session_file` holds the one live
sync of a user on disk, `counts` the numbers that a sync compares. What a step of the
protocol means is not known here: see `sync`. Start reading at `library`.
"""
