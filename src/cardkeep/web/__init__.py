# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pages for people: for now the one that says what this is and what to enter in which client.

Starlette and Jinja2; `pages` makes the application, `front` is the first page, `address`
finds out under which address the reader came here. Nothing here knows of the sync protocol's
requests, which `http` serves beside these pages; since that goes by the last segment of a
path, no page may end in the name of a protocol method. Start at `pages`.
"""
