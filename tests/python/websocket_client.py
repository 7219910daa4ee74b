"""Talks WebSocket through a sidecar. Arguments: the sidecar's port, the authority."""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

PORT, AUTHORITY = int(sys.argv[1]), sys.argv[2]


def dial(path):
    return connect(f"ws://{AUTHORITY}{path}", host="127.0.0.1", port=PORT, subprotocols=["chat"], max_size=None, proxy=None)


async def main():
    async with dial("/talk?a=b") as socket:
        assert socket.subprotocol == "chat", socket.subprotocol
        for message in ["hello", "ünïcode", b"\x00\xff", "", "x" * 3_000_000]:
            await socket.send(message)
            assert await socket.recv() == message
        await (await socket.ping())
        await socket.send("close")
        try:
            await socket.recv()
            raise AssertionError("it went on")
        except ConnectionClosed as e:
            assert (e.rcvd.code, e.rcvd.reason) == (4321, "as you wish"), e
    async with dial("/") as socket:
        await socket.close(4000, "done")
        assert socket.close_code == 4000, socket.close_code
    try:
        async with dial("/private"):
            raise AssertionError("it was let in")
    except InvalidStatus as e:
        assert (e.response.status_code, e.response.body) == (403, b"not you\n"), e.response


asyncio.run(asyncio.wait_for(main(), 30))
print("ok")
