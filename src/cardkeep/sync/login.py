# SPDX-License-Identifier: AGPL-3.0-or-later
"""Logging in (method `hostKey`)."""

from cardkeep.messages import HostKey, HostKeyGranted
from cardkeep.sync import record
from cardkeep.sync.context import Context


async def login(context: Context, message: HostKey, *, client: str, address: str) -> HostKeyGranted:
    """A new key for this device. Raises WrongCredentials and Throttled."""
    return await context.run_hashing(_login, context, message, client=client, address=address)


def _login(context: Context, message: HostKey, *, client: str, address: str) -> HostKeyGranted:
    begun = context.now_ms()
    granted = context.accounts.login(message.user, message.password, address=address, client=client)
    record.logged_in(
        context, granted.user, granted.device, client=client, address=address, begun=begun
    )
    return HostKeyGranted(granted.key)
