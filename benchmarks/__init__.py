# SPDX-License-Identifier: AGPL-3.0-or-later
"""How fast and how small: cardkeep beside the official server, in one run.

`python -m benchmarks` starts both servers, lets them do the same work in turns (A B A B),
checks every answer, and prints what the work cost: CPU seconds of the whole process tree,
latencies, memory, bytes written, and the ratios cardkeep/official. Speeds are printed and
never asserted; a wrong answer ends the run with an error.

Start at `__main__` (the options), then `cases/` (what is measured, a file for each family of
cases). `client` speaks the protocol (version 11), `servers` starts and ends the servers,
`collections` makes the collections and keeps them for the next run, `measure` reads /proc
(Linux only), `report` prints.

What clients put on the wire (chunks of 4 KiB, one write for a small request, zstd frames
without a size) is done as the desktop client 26.09 was seen to do it.
"""
