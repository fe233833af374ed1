# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python -m tests.cli.endless HOW`: the server's processes around an application that hangs.

request   a request that is never answered, and does not mind being cancelled
thread    worker threads that never come back
close     an application that is never done closing
start     one that is never done starting
broken    one that cannot start
"""

import asyncio
import sys
import threading

from cardkeep.app import Application
from cardkeep.cli import addresses, processes
from cardkeep.cli.ending import Ending
from cardkeep.cli.log import set_up
from cardkeep.http.asgi import Receive, Scope, Send

FOR_EVER = threading.Event()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers /health, and hangs on everything else."""
    if scope["type"] != "http":
        return
    if scope["path"] == "/health":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})
        return
    print("hanging", flush=True)
    if how == "thread":
        await asyncio.get_running_loop().run_in_executor(None, FOR_EVER.wait)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            print("cancelled", flush=True)


def build() -> Application:
    """The application that hangs in the way asked for."""
    if how == "start":
        print("starting http://127.0.0.1:0/", flush=True)
        FOR_EVER.wait()
    if how == "broken":
        raise RuntimeError("it cannot start")

    def close() -> None:
        if how == "close":
            FOR_EVER.wait()

    return Application(application, close)


if __name__ == "__main__":
    how, workers = sys.argv[1], int(sys.argv[2])
    ending = Ending()
    set_up("info")
    sockets = addresses.listen(("127.0.0.1",), 0, required=True)

    def ready() -> None:
        print(addresses.reachable(sockets), flush=True)

    if workers == 1:
        processes.serve(build, sockets, ending, ready)
    processes.supervise(build, sockets, workers, ready)
