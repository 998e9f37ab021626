"""HTTP/2 and gRPC by hand: an attacker sends what no library would send."""

import asyncio
import collections

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, UNKNOWN = 0, 1, 2, 3, 4, 6, 7, 8, 77
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5

WINDOW = 65535  # of a connection and of a stream at first (RFC 9113, section 6.9.2)
FRAME_BYTES = 16384  # the largest payload of a frame, without other settings
LARGEST_FRAME = (1 << 24) - 1
LARGEST_WINDOW = (1 << 31) - 1


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def settings(values):
    payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


def window_update(stream, more):
    return frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big"))


def headers(stream, path, token=None):
    """The headers of a call, as literals that need no table."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "forebay",
              "content-type": "application/grpc", "te": "trailers"}
    if token:
        fields["authorization"] = f"Bearer {token}"
    texts = [[text.encode() for text in field] for field in fields.items()]
    block = b"".join(b"\0" + b"".join(bytes([len(text)]) + text for text in field) for field in texts)
    return frame(HEADERS, END_HEADERS, stream, block)


class Closed(Exception):
    """The server has closed the connection."""


class Connection:
    """A connection of which all that the server sends is read at once. `counts` counts what became of its calls."""

    def __init__(self, reader, writer, counts, window):
        self.reader, self.writer, self.counts = reader, writer, counts
        self.decoder = hpack.Decoder()
        self.next = 1
        self.calls = {}  # futures of the statuses of calls
        self.initial, self.left, self.left_of = WINDOW, WINDOW, {}  # what may be sent
        self.changed = asyncio.Event()
        self.grants = window != 0
        sizes = {INITIAL_WINDOW_SIZE: window, MAX_FRAME_SIZE: LARGEST_FRAME}
        self.writer.write(PREFACE + settings(sizes) + window_update(0, LARGEST_WINDOW - WINDOW))
        self.reading = asyncio.create_task(self.read())

    @classmethod
    async def open(cls, target, window=LARGEST_WINDOW // 2):
        """Streams get `window` from the start, and more as they take bytes, unless it is 0."""
        reader, writer = await asyncio.open_connection(*target.address, limit=8 << 20)
        target.counts["connections"] += 1
        return cls(reader, writer, target.counts, window)

    async def read(self):
        try:
            while True:
                head = await self.reader.readexactly(9)
                length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                stream = int.from_bytes(head[5:], "big")
                payload = await self.reader.readexactly(length)
                self.received(kind, flags, stream, payload)
        except (OSError, asyncio.IncompleteReadError):
            self.counts["closed by the server"] += 1
        finally:
            self.writer.close()
            self.changed.set()
            for call in self.calls.values():
                if not call.done():
                    call.set_exception(Closed())
                    call.exception()  # which nobody may wait for

    def received(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                if int.from_bytes(payload[at:at + 2], "big") == INITIAL_WINDOW_SIZE:
                    size = int.from_bytes(payload[at + 2:at + 6], "big")
                    self.left_of = {stream: left + size - self.initial for stream, left in self.left_of.items()}
                    self.initial = size
            self.writer.write(frame(SETTINGS, ACK, 0))
            self.changed.set()
        elif kind == PING and not flags & ACK:
            self.writer.write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self.left += more
            elif stream in self.left_of:
                self.left_of[stream] += more
            self.changed.set()
        elif kind == DATA:
            self.counts["bytes received"] += len(payload)
            if self.grants and payload:
                self.writer.write(window_update(0, len(payload)) + window_update(stream, len(payload)))
        elif kind == RESET:
            self.end(stream, "reset")
        elif kind == HEADERS:
            fields = dict(self.decoder.decode(payload))
            if flags & END_STREAM:
                self.end(stream, f"status {fields.get('grpc-status')} {fields.get('grpc-message', '')}".rstrip())

    def end(self, stream, status):
        self.left_of.pop(stream, None)
        self.changed.set()
        call = self.calls.pop(stream, None)
        if call and not call.done():
            self.counts[status] += 1
            call.set_result(status)

    def begin(self, path, token=None):
        """Begins a call, whose request is sent by `send`. Returns its stream."""
        if self.writer.is_closing():
            raise Closed
        stream, self.next = self.next, self.next + 2
        self.calls[stream] = asyncio.get_running_loop().create_future()
        self.left_of[stream] = self.initial
        self.writer.write(headers(stream, path, token))
        self.counts["calls"] += 1
        return stream

    async def send(self, stream, body, flags=0):
        """Sends bytes of a request as fast as the server's windows let it, or until the call has ended."""
        at = 0
        while at < len(body) and stream in self.left_of and not self.writer.is_closing():
            size = min(self.left, self.left_of[stream], FRAME_BYTES, len(body) - at)
            if size <= 0:
                self.changed.clear()
                await self.changed.wait()
                continue
            self.left -= size
            self.left_of[stream] -= size
            last = at + size == len(body)
            self.writer.write(frame(DATA, flags * last, stream, body[at:at + size]))
            at += size
            self.counts["bytes sent"] += size
            try:
                await self.writer.drain()
            except OSError:
                raise Closed from None

    async def call(self, path, message, token=None):
        """Makes a call of one message. Returns its status."""
        stream = self.begin(path, token)
        status = self.calls[stream]
        await self.send(stream, b"\0" + len(message).to_bytes(4, "big") + message, END_STREAM)
        return await status

    async def ended(self, stream):
        """Waits for the end of a call."""
        if stream in self.calls:
            await self.calls[stream]

    async def close(self):
        self.reading.cancel()
        await asyncio.gather(self.reading, return_exceptions=True)


class Target:
    """What an attacker attacks, and what became of it."""

    def __init__(self, address, admin, token, records):
        self.address, self.admin, self.token, self.records = address, admin, token, records
        self.counts = collections.Counter()


# Protocol buffers

def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def message(fields):
    """Encodes a message from its fields' numbers and values: integers, texts, messages, and lists of them."""
    out = b""
    for number, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int):
                out += varint(number << 3) + varint(one)
            else:
                one = one.encode() if isinstance(one, str) else one
                out += varint(number << 3 | 2) + varint(len(one)) + one
    return out


def job(dataset, recipe, changes=(), seed=0):
    return message({1: dataset, 2: message({1: recipe, 3: list(changes)}), 3: seed})
