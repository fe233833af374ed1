# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who causes a copy to be kept, as the copy's manifest tells it."""

from cardkeep.backups.snapshot import Cause, Reason
from cardkeep.messages import Caller


def cause(caller: Caller, reason: Reason) -> Cause:
    """The caller's device, for this reason."""
    return Cause(reason, caller.device, caller.client, caller.address)
