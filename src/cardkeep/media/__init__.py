# SPDX-License-Identifier: AGPL-3.0-or-later
"""One user's media: the files under their own names, and the index that numbers their changes.

On disk it is the official server's layout (docs/sync-protocol.md, 9.7): `media/` and
`media.db`. `index` holds the SQL and the rules of what a change does, `files` the bytes and
how they get into the folder without anything being lost to a crash, `connections` the few
indexes that stay open, `shared` an optional store of bytes that many users have. What is deleted
or replaced is kept in a `trash` for some days, and `bringing` brings it back; `check` finds
what is wrong. What clients say and how it travels is left to `sync` and `wire`, who may do it to
`accounts`. Start with `store.MediaStore`, whose methods are what the five media methods need.
"""
