# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kept copies: so that no step is irreversible (docs/design.md, promise 3).

`snapshot` is one kept copy on disk, `keeper` says when one is taken, `retention` which ones
stay. `restore` puts a collection in the place of another, for whatever reason. `shrink` judges
whether much is about to go, and `notice` tells the user so through the protocol. Who asked for
any of it, and over which road, is not known here.
"""
