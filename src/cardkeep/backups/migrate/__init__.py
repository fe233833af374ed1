# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole data folders of other servers, taken over into the one of this server.

`source` is what is found in such a folder, and `official`, `ankisyncd` and `ankisyncd_rs` find it,
a file per server. `copying` copies SQLite files of a source, which is never opened where it
lies; `collection` and `media` make a user's things ready; `migration` looks at all users, and
puts each into its place whole or not at all. Passwords and keys go to `accounts`.
"""
