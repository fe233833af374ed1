# SPDX-License-Identifier: AGPL-3.0-or-later
"""Media (docs/sync-protocol.md, section 9); independent of any collection sync."""

from functools import partial

from cardkeep.messages import (
    Caller,
    DownloadFiles,
    MediaBegin,
    MediaBegun,
    MediaChangeList,
    MediaChanges,
    MediaFiles,
    MediaSanity,
    MediaSanityAnswer,
    MediaUploaded,
    UploadChanges,
)
from cardkeep.sync import record
from cardkeep.sync.context import Context


async def begin(context: Context, caller: Caller, message: MediaBegin) -> MediaBegun:
    """The last usn; versions 8-10 send the key back with each later request."""
    stamp = context.library.folder(caller.user).stamp()
    return MediaBegun(context.media.last_usn(caller.user, stamp), caller.host_key)


async def changes(context: Context, caller: Caller, message: MediaChanges) -> MediaChangeList:
    """What changed since the client's usn, a page at a time."""
    found = await context.run(context.media.changes, caller.user, message.last_usn)
    return MediaChangeList(found)


async def upload(context: Context, caller: Caller, message: UploadChanges) -> MediaUploaded:
    """Stores and deletes files; what the answer tells is on disk."""
    return await context.run_long(_upload, context, caller, message)


def _upload(context: Context, caller: Caller, message: UploadChanges) -> MediaUploaded:
    begun = context.now_ms()
    done = context.media.upload(caller.user, message.read())
    record.media(context, caller, begun, done)
    return done


async def download(context: Context, caller: Caller, message: DownloadFiles) -> MediaFiles:
    """As many of the files as one answer holds, opened by who packs them."""
    return MediaFiles(partial(context.media.download, caller.user, message.names))


async def sanity(context: Context, caller: Caller, message: MediaSanity) -> MediaSanityAnswer:
    """Whether both sides have the same number of files."""
    return MediaSanityAnswer(await context.run(context.media.sanity, caller.user, message.count))
