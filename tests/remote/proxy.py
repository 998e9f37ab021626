"""A TCP proxy that delays each direction by half of a latency, without limiting how much is on its way."""

import asyncio
import sys


async def forward(reader, writer, delay):
    """Sends what was read, each part when its time has come."""
    parts = asyncio.Queue(maxsize=256)

    async def send():
        while (part := await parts.get()) is not None:
            due, data = part
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            writer.write(data)
            await writer.drain()
        writer.close()

    sending = asyncio.create_task(send())
    try:
        while data := await reader.read(1 << 18):
            await parts.put((asyncio.get_running_loop().time() + delay, data))
    except ConnectionError:
        pass
    await parts.put(None)
    try:
        await sending
    except ConnectionError:
        pass


async def main(target, latency_ms):
    delay = latency_ms / 2000

    async def serve(reader, writer):
        try:
            there = await asyncio.open_connection("127.0.0.1", target)
        except ConnectionError:
            writer.close()
            return
        await asyncio.gather(forward(reader, there[1], delay), forward(there[0], writer, delay))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
