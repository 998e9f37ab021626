"""Proxies before a bucket: one that delays, and one that fails as networks and buckets do.

    proxy.py PORT LATENCY_MS

Prints the ports of both. The first delays each direction by half of the latency, without limiting how much is on its
way. The second delays as well, and of the requests for ranges it cuts an answer, says to slow down, changes a byte,
shortens an answer, or answers late, in turns.
"""

import asyncio
import itertools
import re
import sys

# One of this many requests for ranges fails.
EVERY = 4
FAULTS = ("cut", "throttle", "lie", "short", "late")
LATE_SECONDS = 0.6


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


async def message(reader):
    """Head of a request or an answer, and the length of its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return head, int(length[1]) if length else 0


async def answer(target, request):
    """Sends a request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target)
    try:
        writer.write(request)
        await writer.drain()
        head, length = await message(reader)
        body = b"" if request.startswith(b"HEAD") else await reader.readexactly(length)
        return head, body
    finally:
        writer.close()


class Lies:
    """Bytes that were changed. Who asks for one of them again gets the truth."""

    def __init__(self):
        self.told = []

    def change(self, request, body):
        path = request.split(b" ")[1]
        start = int(re.search(rb"(?i)\r\nrange: *bytes=(\d+)", request)[1])
        if not body or any(of == path and start <= at < start + len(body) for of, at in self.told):
            return body
        half = len(body) // 2
        self.told.append((path, start + half))
        return body[:half] + bytes([body[half] ^ 0x55]) + body[half + 1 :]


def damaged(fault, head, body):
    """What is sent in place of an answer, before the connection ends."""
    half = len(body) // 2
    if fault == "throttle":
        return b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nRetry-After: 0\r\n\r\n"
    if fault == "cut":
        body = body[:half]
    elif fault == "short":
        body = body[:half]
        head = re.sub(rb"(?i)(\r\ncontent-length: *)\d+", rb"\g<1>%d" % half, head)
    return head + body


async def main(target, latency_ms):
    delay = latency_ms / 2000
    ranges = itertools.count(1)
    faults = itertools.cycle(FAULTS)
    lies = Lies()

    async def serve(reader, writer):
        try:
            there = await asyncio.open_connection("127.0.0.1", target)
        except ConnectionError:
            writer.close()
            return
        await asyncio.gather(forward(reader, there[1], delay), forward(there[0], writer, delay))

    async def fail(reader, writer):
        """Serves one request of a connection."""
        try:
            head, length = await message(reader)
            request = head + await reader.readexactly(length)
            is_range = head.startswith(b"GET") and b"\r\nrange:" in head.lower()
            fault = next(faults) if is_range and next(ranges) % EVERY == 0 else None
            await asyncio.sleep(delay)
            head, body = await answer(target, request)
            await asyncio.sleep(delay + (LATE_SECONDS if fault == "late" else 0))
            if fault == "lie":
                body = lies.change(request, body)
            head = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head)
            head = head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            writer.write(damaged(fault, head, body))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    servers = [await asyncio.start_server(way, "127.0.0.1", 0) for way in (serve, fail)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
