# SPDX-License-Identifier: AGPL-3.0-or-later
"""The commands, one file each: `serve`, `user`, `device`.

They ask, check, act and say so; a user's mistake gets one line on standard error and an exit
status, never a traceback. Start at `main`. `processes` is how the server's processes begin and
end, `announcement` what it prints at its start.
"""
