# SPDX-License-Identifier: AGPL-3.0-or-later
"""Logging in (method `hostKey`)."""

from cardkeep.messages import HostKey, HostKeyGranted
from cardkeep.sync.context import Context


async def login(context: Context, message: HostKey, *, client: str, address: str) -> HostKeyGranted:
    """A new key for this device. Raises WrongCredentials and Throttled."""
    key = await context.run_hashing(
        context.accounts.login, message.user, message.password, address=address, client=client
    )
    return HostKeyGranted(key)
