# SPDX-License-Identifier: AGPL-3.0-or-later
"""What each message of the protocol means: a file per step.

`steps` holds the table from message to step and is what `http` calls. A normal sync is a
journal and one commit (docs/design.md, section 3): `start` opens it, `graves`, `changes`
and `chunks` write down what the client sends and answer from the collection as it is,
`sanity` applies everything and commits, `finish` tells the result. `session` says whose
turn it is, `newer` which side wins, `commit` applies a journal, `mending` repairs what
crossing changes broke. SQL and files are in `collection` and `media`. Start at `steps`.
"""
