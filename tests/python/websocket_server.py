"""A WebSocket server of the `websockets` package. Argument: the port."""

import asyncio
import http
import sys

from websockets.asyncio.server import serve


async def talk(socket):
    async for message in socket:
        if message == "close":
            await socket.close(4321, "as you wish")
        else:
            await socket.send(message)


def refuse(socket, request):
    if request.path == "/private":
        return socket.respond(http.HTTPStatus.FORBIDDEN, "not you\n")


async def main():
    async with serve(talk, "127.0.0.1", int(sys.argv[1]), process_request=refuse, subprotocols=["chat"], max_size=None):
        await asyncio.Future()


asyncio.run(main())
