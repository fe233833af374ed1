# SPDX-License-Identifier: AGPL-3.0-or-later
"""A backup of the whole server: one file, made while it runs, restored on a bare machine.

The file is a tar within zstd, so that `tar --zstd -xf FILE` gets at everything without
cardkeep. What comes out is a data folder that either server can serve, and three files more:

* `cardkeep-backup.json`, the first: when it was made, by which version, whose data it holds;
* `cardkeep-backup-contents.json`: how much there is of each user, and what is missing;
* `cardkeep-backup.sha256`, the last: the checksum of everything before, as `sha256sum -c` reads it.

Whatever belongs to a running server alone (live syncs, bodies on their way) is left out.

`stream` writes and reads such a file and knows nothing of what is in it; `records` are the two
JSON files. `sources` gives each thing in one consistent state while the server goes on; `write`
puts them together. `verify` reads a file from start to end, `restore` makes a data folder of it.
"""
