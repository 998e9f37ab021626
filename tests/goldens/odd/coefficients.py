"""A writer of JPEG files from coefficients: any sampling, any sequence of scans, and lossless coding (T.81).

Pixels do not matter here, so coefficients are drawn, in zigzag order, and not transformed.
"""

import heapq

import numpy as np

BASELINE = [((), 0, 63, 0, 0)]  # an empty list of components stands for all


def segment(code, data):
    return bytes([0xFF, code]) + (len(data) + 2).to_bytes(2, "big") + data


def quantizers(count=2, wide=False, step=3):
    width = 2 if wide else 1
    return b"".join(segment(0xDB, bytes([wide << 4 | i]) + b"".join((step + i + k // 3).to_bytes(width, "big") for k in range(64)))
                    for i in range(count))


class Bits:
    def __init__(self):
        self.value, self.count = 0, 0

    def put(self, value, count):
        self.value = self.value << count | value & ((1 << count) - 1)
        self.count += count

    def finish(self):
        pad = -self.count % 8
        self.put((1 << pad) - 1, pad)
        return self.value.to_bytes(self.count // 8, "big").replace(b"\xff", b"\xff\0") if self.count else b""


def code_lengths(symbols):
    """Lengths of a Huffman code. The symbol -1 takes the code of all ones, which must not exist."""
    counts = {symbol: symbols.count(symbol) for symbol in set(symbols)} or {0: 1}
    heap = [(count, [symbol]) for symbol, count in sorted(counts.items())] + [(0, [-1])]
    lengths = dict.fromkeys([*counts, -1], 0)
    heapq.heapify(heap)
    while len(heap) > 1:
        (a, left), (b, right) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in left + right:
            lengths[symbol] += 1
        heapq.heappush(heap, (a + b, left + right))
    if max(lengths.values()) > 16:
        lengths = {symbol: 8 for symbol in counts}
    lengths.pop(-1, None)
    return lengths


def table(lengths):
    """Returns (counts and symbols as DHT has them, {symbol: (code, length)})."""
    ordered = sorted(lengths, key=lambda symbol: (lengths[symbol], symbol))
    counts = bytes(sum(lengths[s] == n for s in lengths) for n in range(1, 17))
    codes, code, last = {}, 0, 0
    for symbol in ordered:
        code <<= lengths[symbol] - last
        last = lengths[symbol]
        codes[symbol] = (code, last)
        code += 1
    return counts + bytes(ordered), codes


def size_of(value):
    return int(abs(value)).bit_length()


def raw(value):
    """The extra bits of a value."""
    size = size_of(value)
    return (value if value > 0 else value + (1 << size) - 1, size)


class Frame:
    """Components as (id, h, v, quantizer), and drawn coefficients."""

    def __init__(self, rng, width, height, components, large=False):
        self.width, self.height, self.components = width, height, components
        self.h, self.v = (max(c[i] for c in components) for i in (1, 2))
        self.across, self.down = -(-width // (8 * self.h)), -(-height // (8 * self.v))
        self.blocks = []
        for _, h, v, _ in components:
            shape = (self.down * v, self.across * h, 64)
            spread = np.r_[40, np.full(63, 6)] * (3 if large else 1)
            drawn = np.rint(rng.normal(0, spread, shape) * (rng.random(shape) < np.r_[1, np.geomspace(0.5, 0.02, 63)]))
            self.blocks.append(drawn.astype(int).clip(-1000, 1000))

    def header(self, code, precision=8):
        head = bytes([precision]) + self.height.to_bytes(2, "big") + self.width.to_bytes(2, "big") + bytes([len(self.components)])
        return segment(code, head + b"".join(bytes([id, h << 4 | v, q]) for id, h, v, q in self.components))

    def units(self, indices):
        """The blocks of a scan: lists of (component, block), a list for each MCU."""
        if len(indices) > 1:
            for y in range(self.down):
                for x in range(self.across):
                    yield [(i, self.blocks[i][y * v + b, x * h + a]) for i in indices for _, h, v, _ in [self.components[i]]
                           for b in range(v) for a in range(h)]
            return
        i, = indices
        _, h, v, _ = self.components[i]
        rows, columns = -(-(-(-self.height * v // self.v)) // 8), -(-(-(-self.width * h // self.h)) // 8)
        for y in range(rows):
            for x in range(columns):
                yield [(i, self.blocks[i][y, x])]

    def scan(self, scan, restart=0, progressive=False):
        """DHT, SOS and data of a scan."""
        indices, first, last, high, low = scan
        indices = list(indices) or list(range(len(self.components)))
        coder = Coder(first, last, high, low, progressive)
        for count, unit in enumerate(self.units(indices)):
            if restart and count and count % restart == 0:
                coder.restart()
            for i, block in unit:
                coder.block(i, min(indices.index(i), 1), block)
        tables, data = coder.finish()
        head = bytes([len(indices)]) + b"".join(bytes([self.components[i][0], min(n, 1) * 17]) for n, i in enumerate(indices))
        return tables + segment(0xDA, head + bytes([first, last, high << 4 | low])) + data


class Coder:
    """Collects symbols and extra bits, then codes them."""

    def __init__(self, first, last, high, low, progressive):
        self.first, self.last, self.high, self.low, self.progressive = first, last, high, low, progressive
        self.parts, self.dc, self.run, self.waiting = [[]], {}, 0, []

    def put(self, kind, number, symbol, *extra):
        self.parts[-1].append((kind, number, symbol, extra))

    def bits(self, *extra):
        self.parts[-1].append((None, 0, 0, extra))

    def restart(self):
        self.end_run()
        self.parts.append([])
        self.dc = {}

    def block(self, i, number, block):
        self.number = number
        if self.first == 0:
            value = int(block[0]) >> self.low
            if self.high:
                self.bits((value & 1, 1))
            else:
                difference = value - self.dc.get(i, 0)
                self.dc[i] = value
                self.put("dc", number, size_of(difference), raw(difference))
        if self.last == 0:
            return
        values = [int(block[k]) for k in range(max(self.first, 1), self.last + 1)]
        values = [abs(v) >> self.low if v >= 0 else -(abs(v) >> self.low) for v in values]
        (self.refined if self.high else self.alternating)(values)

    def alternating(self, values):
        zeros = 0
        for value in values:
            if value == 0:
                zeros += 1
                continue
            self.end_run()
            while zeros > 15:
                self.put("ac", self.number, 0xF0)
                zeros -= 16
            self.put("ac", self.number, zeros << 4 | size_of(value), raw(value))
            zeros = 0
        if zeros:
            self.run += 1
            if not self.progressive or self.run == 0x7FFF:
                self.end_run()

    def refined(self, values):
        newest = max((k for k, value in enumerate(values) if abs(value) == 1), default=-1)
        zeros, corrections = 0, []
        for k, value in enumerate(values):
            if value == 0:
                zeros += 1
                continue
            while zeros > 15 and k <= newest:
                self.end_run()
                self.put("ac", self.number, 0xF0, *corrections)
                zeros, corrections = zeros - 16, []
            if abs(value) > 1:
                corrections.append((abs(value) & 1, 1))
                continue
            self.end_run()
            self.put("ac", self.number, zeros << 4 | 1, (value > 0, 1), *corrections)
            zeros, corrections = 0, []
        if zeros or corrections:
            self.run += 1
            self.waiting += corrections

    def end_run(self):
        if self.run:
            size = self.run.bit_length() - 1
            self.put("ac", self.number, size << 4, (self.run, size), *self.waiting)
            self.run, self.waiting = 0, []

    def finish(self):
        self.end_run()
        used = sorted({(kind, number) for part in self.parts for kind, number, _, _ in part if kind})
        segments, codes = b"", {}
        for kind, number in used:
            symbols = [symbol for part in self.parts for k, n, symbol, _ in part if (k, n) == (kind, number)]
            stored, codes[kind, number] = table(code_lengths(symbols))
            segments += segment(0xC4, bytes([(kind == "ac") << 4 | number]) + stored)
        out = b""
        for count, part in enumerate(self.parts):
            bits = Bits()
            for kind, number, symbol, extra in part:
                if kind:
                    bits.put(*codes[kind, number][symbol])
                for value, size in extra:
                    bits.put(int(value), size)
            out += (bytes([0xFF, 0xD0 | (count - 1) % 8]) if count else b"") + bits.finish()
        return segments, out


JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def adobe(transform):
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def file(frame, scans=BASELINE, code=0xC0, restart=0, head=JFIF, precision=8, wide=False, tail=b"\xff\xd9", step=3):
    progressive = code == 0xC2
    out = b"\xff\xd8" + head + quantizers(1 + max(q for *_, q in frame.components), wide, step) + frame.header(code, precision)
    if restart:
        out += segment(0xDD, restart.to_bytes(2, "big"))
    return out + b"".join(frame.scan(scan, restart, progressive) for scan in scans) + tail


def lossless(samples, predictor=1, shift=0, precision=8, restart=0, head=b"", ids=(1, 2, 3, 4)):
    """A lossless file (SOF3) of samples [height, width, channels]."""
    height, width, channels = samples.shape
    samples = samples.astype(int) >> shift
    coder = Coder(0, 0, 0, 0, False)
    start = 1 << precision - shift - 1
    rows_since = 0
    for y in range(height):
        if restart and y and y % restart == 0:
            coder.restart()
            rows_since = y
        for x in range(width):
            for c in range(channels):
                left, above, corner = (samples[y - b, x - a, c] if x >= a and y >= b else 0 for a, b in ((1, 0), (0, 1), (1, 1)))
                if y == rows_since:
                    guess = left if x else start
                elif x == 0:
                    guess = above
                else:
                    guess = [0, left, above, corner, left + above - corner, left + (above - corner >> 1), above + (left - corner >> 1),
                             left + above >> 1][predictor]
                difference = int(samples[y, x, c]) - int(guess)
                coder.put("dc", 0, size_of(difference), raw(difference))
    tables, data = coder.finish()
    frame = bytes([precision]) + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([channels])
    frame = segment(0xC3, frame + b"".join(bytes([ids[c], 0x11, 0]) for c in range(channels)))
    scan = segment(0xDA, bytes([channels]) + b"".join(bytes([ids[c], 0]) for c in range(channels)) + bytes([predictor, 0, shift]))
    interval = segment(0xDD, (restart * width).to_bytes(2, "big")) if restart else b""
    return b"\xff\xd8" + head + frame + tables + interval + scan + data + b"\xff\xd9"
