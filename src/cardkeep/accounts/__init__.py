# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who may sync: users, their passwords, and one host key per logged-in device.

Everything is in BASE/accounts.db, which the server's processes and the command line share, so
that a change made by one is in force at the next request of all. What a caller may do,
and what the answer to a login looks like, is left to `sync` and `http`.

Start at `store`; `login` judges a name and password, `throttle` slows guessing down.
"""
