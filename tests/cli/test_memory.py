# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a rush needed is given back."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import threading, time
from cardkeep.cli import processes

processes.LOOK_AT_MEMORY = 0.1
processes.spare_memory()
if {stay_small}:
    threading.Thread(target=processes._stay_small, daemon=True).start()
rush = [bytearray(60_000) for _ in range(2000)]
last = bytearray(60_000)
del rush
time.sleep(0.7)
print(processes._resident() // 1_000_000)
"""


def resident(*, stay_small: bool) -> int:
    """MB in memory after 120 MB were in use and freed, but for the last block."""
    script = SCRIPT.format(stay_small=stay_small)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="nobody tells how much it is")
def test_freed_memory_is_given_back() -> None:
    """By itself the C library keeps all of it for a block that is still in use."""
    kept = resident(stay_small=False)
    assert resident(stay_small=True) < kept - 60
