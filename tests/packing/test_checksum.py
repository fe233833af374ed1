# SPDX-License-Identifier: AGPL-3.0-or-later
"""The fast checksum is the usual one."""

import random
import subprocess
import sys
import zlib

from cardkeep.packing.checksum import crc32

BYTES = random.Random(5).randbytes(70_000)


def test_it_is_the_usual_one() -> None:
    """Of any length, in one go and in pieces."""
    for size in (0, 1, 3, 15, 16, 17, 63, 255, 4096, 5000, 70_000):
        data = BYTES[:size]
        assert crc32(data) == zlib.crc32(data)
        assert crc32(memoryview(data)[size // 3 :], crc32(data[: size // 3])) == zlib.crc32(data)


def test_it_does_without_the_library() -> None:
    """On machines for which the library is not made."""
    code = (
        "import sys, zlib; sys.modules['zlib_ng'] = None; "
        "from cardkeep.packing.checksum import crc32; assert crc32 is zlib.crc32"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
