# SPDX-License-Identifier: AGPL-3.0-or-later
"""The only room that knows URLs and status codes.

`application` is what the server runs: it sends the protocol's methods to `sync_routes`
and everything else to the pages. `sync_routes` reads a request, has `wire` make a message
of it, gives that to the steps (`steps` says what they must offer) and sends the answer.
`bodies` and `spool` take bodies in, `outgoing` lets answers out, `errors` holds the one
table from error class to status. Plain ASGI throughout, no framework: a sync without
changes is a handful of requests of some ten microseconds each. Start at `sync_routes`.
"""
