# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is measured: a file for each family of cases.

Each module has `CASES`, a list of `Case`; `ALL` is the order of a whole run. A case gets a
`Bench`, starts what it needs, and notes what it measured with `Bench.add`.
"""
