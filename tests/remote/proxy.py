"""Proxies before a bucket: one that delays, and one that fails as networks and buckets do.

    proxy.py PORT LATENCY_MS

Prints the ports of both. The first delays each direction by half of the latency, without limiting how much is on its
way. The second delays as well, and of the requests for ranges it cuts an answer, says to slow down, changes a byte,
shortens an answer, or answers late, in turns.
"""

import asyncio
import collections
import itertools
import re
import socket
import sys

import uvloop

# One of this many requests for ranges fails.
EVERY = 4
FAULTS = ("cut", "throttle", "lie", "short", "late")
LATE_SECONDS = 0.6


class Side(asyncio.Protocol):
    """One end of a connection. What it receives goes to the other end when its time has come."""

    def __init__(self, delay, other=None):
        self.delay, self.parts, self.other, self.transport = delay, collections.deque(), other, None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        # Acknowledged at once: a bucket that sends a head and then, by Nagle's algorithm, a body when that has arrived would
        # add the 40 ms that an acknowledgment may be delayed.
        self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self.forward(data)

    def forward(self, data):
        # Timers of the same time may fire in another order, so that each sends the first part that is left.
        self.parts.append(data)
        asyncio.get_running_loop().call_later(self.delay, self.send)

    def connection_lost(self, _error):
        if self.other:
            self.forward(None)

    def send(self):
        data, there = self.parts.popleft(), self.other.transport
        if data is None:
            there.close()
        elif not there.is_closing():
            there.write(data)

    def pause_writing(self):
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self):
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()


async def delay_all(target, delay):
    """Serves connections to a target whose directions have a delay each."""
    loop = asyncio.get_running_loop()

    class Client(Side):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()
            self.connecting = loop.create_task(self.connect())

        async def connect(self):
            try:
                _, self.other = await loop.create_connection(lambda: Side(delay, self), "127.0.0.1", target)
                self.transport.resume_reading()
            except OSError:
                self.transport.close()

    return await loop.create_server(lambda: Client(delay), "127.0.0.1", 0)


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

    servers = [await delay_all(target, delay), await asyncio.start_server(fail, "127.0.0.1", 0)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
