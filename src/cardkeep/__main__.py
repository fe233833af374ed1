# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python -m cardkeep` is the same program as `cardkeep`."""

from cardkeep.cli.main import main

main()
