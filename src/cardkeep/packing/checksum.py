# SPDX-License-Identifier: AGPL-3.0-or-later
"""The checksum of zip members (CRC-32), as fast as the processor has it.

Every byte of every media file passes through it both ways; the library computes it with
the instructions that processors have for it, in a fifth of the time of the usual zlib.
"""

try:
    from zlib_ng.zlib_ng import crc32
except ImportError:  # not made for this machine
    from zlib import crc32

__all__ = ["crc32"]
