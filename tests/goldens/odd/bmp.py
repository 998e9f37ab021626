"""Bitmaps of Windows and OS/2."""

import struct

from .damage import cuts, number, one_of

DAMAGED = ("plain", "rle", "masks")
MASKS = (
    (16, 0xF800, 0x7E0, 0x1F, 0), (16, 0x7C00, 0x3E0, 0x1F, 0), (16, 0xF00, 0xF0, 0xF, 0xF000),
    (16, 0x7C00, 0x3E0, 0x1F, 0x8000), (24, 0xFF0000, 0xFF00, 0xFF, 0), (24, 0xFF, 0xFF00, 0xFF0000, 0),
    (32, 0xFF0000, 0xFF00, 0xFF, 0), (32, 0xFF0000, 0xFF00, 0xFF, 0xFF000000), (32, 0, 0, 0, 0),
    (32, 0xFF000000, 0xFF0000, 0xFF00, 0), (32, 0xFF000000, 0xFF0000, 0xFF00, 0xFF), (32, 0xFF000000, 0xFF00, 0xFF, 0),
    (32, 0xFF000000, 0xFF00, 0xFF, 0xFF0000), (32, 0xFF, 0xFF00, 0xFF0000, 0xFF000000), (32, 0xFF, 0xFF00, 0xFF0000, 0),
    (32, 0x3FF00000, 0xFFC00, 0x3FF, 0), (8, 0xE0, 0x1C, 3, 0),
)


def bmp(rng, width=13, height=7, bits=24, header=40, compression=0, palette=None, data=None, masks=None, start=None,
        colors=None, down=False, planes=1, gap=0, after=b""):
    """A file. `palette` is bytes, `masks` four numbers, `data` the samples with padding."""
    core = header in (12, 16)
    if palette is None:
        palette = rng.bytes((3 if header == 12 else 4) << bits) if bits <= 8 else b""
    if data is None:
        data = rng.bytes(-(-width * bits // 32) * 4 * height)
    side = "HH" if header == 12 else "Ii"
    info = struct.pack("<I" + side + "HH", header, width, -height if down else height, planes, bits)
    if not core:
        info += struct.pack("<IIiiII", compression, len(data), 2835, 2835, colors or 0, 0)
    raw = struct.pack("<IIII", *masks) if masks else b""
    if header in (52, 56, 108, 124):
        info += raw or bytes(16)
        raw = b""
    info = info[:header].ljust(header, b"\0")
    raw = raw[:12]
    offset = 14 + len(info) + len(raw) + len(palette) + gap
    size = offset + len(data)
    head = b"BM" + struct.pack("<IHHI", size, 0, 0, offset if start is None else start)
    return head + info + raw + palette + bytes(gap) + data + after


def runs(rng, width, height, four):
    """Random operations of run-length encoding."""
    out, budget = b"", width * height
    while budget > 0:
        kind = rng.random()
        if kind < 0.5:
            count = number(rng, 1, min(255, 2 * width))
            out, budget = out + bytes([count, number(rng, 0, 255)]), budget - count
        elif kind < 0.75:
            count = number(rng, 3, min(30, width + 3))
            stored = rng.bytes(-(-count // 2) if four else count)
            out, budget = out + bytes([0, count]) + stored + bytes(len(stored) % 2), budget - count
        elif kind < 0.9:
            out, budget = out + bytes(2), budget - width // 2
        elif kind < 0.97:
            right, up = number(rng, 0, 4), number(rng, 0, 1)
            out, budget = out + bytes([0, 2, right, up]), budget - right - up * width
        else:
            out += bytes([1, number(rng, 0, 255)])
    return out


def rows_of_runs(rng, width, height, four):
    """Whole rows, as an encoder writes them."""
    out = b""
    for _ in range(height):
        left = width
        while left:
            count = number(rng, 1, min(left, 9))
            if count >= 3 and rng.random() < 0.4:
                stored = rng.bytes(-(-count // 2) if four else count)
                out += bytes([0, count]) + stored + bytes(len(stored) % 2)
            else:
                out += bytes([count, number(rng, 0, 255)])
            left -= count
        out += b"\0\0"
    return out + b"\0\1"


def gray(count, entry, step=1):
    return b"".join(bytes([i * step % 256] * 3) + bytes(entry - 3) for i in range(count))


def cases(rng):
    for header in (12, 16, 20, 40, 52, 56, 64, 108, 124):
        for bits in (1, 2, 4, 8, 16, 24, 32):
            for down in (False, True) if header != 12 else (False,):
                name = f"h{header}_b{bits}" + "_down" * down
                yield "plain", name, bmp(rng, number(rng, 1, 19), number(rng, 1, 9), bits, header, down=down)
    for bits in (1, 4, 8):
        for entry, header in ((3, 12), (4, 40)):
            name = f"b{bits}_h{header}"
            for label, palette in (
                ("gray", gray(1 << bits, entry)), ("scaled", gray(1 << bits, entry, 255 // ((1 << bits) - 1))),
                ("black_white", gray(2, entry, 255)), ("white_black", gray(2, entry, 255)[::-1]), ("none", b""),
                ("cut", rng.bytes(entry * 2 - 1)),
            ):
                yield "palette", f"{label}_{name}", bmp(rng, bits=bits, header=header, palette=palette)
        for colors in (1, 2, 3, 5, 16, 200, 255, 256, 257, 300, 65536, 65537, 1 << 31):
            for label, palette in (("random", rng.bytes(4 * min(colors, 300))), ("gray", gray(min(colors, 300), 4))):
                yield "palette", f"{label}_b{bits}_of{colors}", bmp(rng, bits=bits, palette=palette, colors=colors)
        two = gray(2, 4, 255)
        yield "palette", f"two_b{bits}", bmp(rng, bits=bits, palette=two, colors=2)
    for number_of, (bits, *masks) in enumerate(MASKS):
        for header in (40, 52, 56, 64, 108, 124):
            yield "masks", f"{number_of}_h{header}", bmp(rng, 9, 5, bits, header, 3, masks=masks)
        yield "masks", f"{number_of}_down", bmp(rng, 9, 5, bits, 40, 3, masks=masks, down=True)
    for four in (False, True):
        bits, compression = (4, 2) if four else (8, 1)
        for index in range(28):
            width, height = number(rng, 1, 23), number(rng, 1, 9)
            whole = rows_of_runs(rng, width, height, four) if index < 10 else runs(rng, width, height, four)
            data = whole if index % 3 else whole + b"\0\1"
            palette = one_of(rng, (None, None, gray(1 << bits, 4)))
            yield "rle", f"rle{bits}_{index}", bmp(
                rng, width, height, bits, one_of(rng, (40, 64, 108)), compression, palette, data, down=index % 4 == 0)
        data = rows_of_runs(rng, 11, 5, four)
        for end in range(0, len(data), 3):
            yield "rle_cut", f"rle{bits}_{end}", bmp(rng, 11, 5, bits, 40, compression, data=data[:end])
        for wrong in (1, 4, 8, 16, 24):
            yield "rle", f"rle{bits}_of_{wrong}_bits", bmp(rng, 11, 5, wrong, 40, compression, data=data)
        two = gray(2, 4, 255)
        yield "rle", f"rle{bits}_two", bmp(rng, 11, 5, bits, 40, compression, two, data, colors=2)
    for compression in (4, 5, 6, 11, 99, 1 << 31):
        for bits in (0, 8, 16, 24, 32):
            yield "compression", f"c{compression}_b{bits}", bmp(rng, bits=bits, compression=compression)
    for bits in (1, 8, 24):
        for label, start in (("zero", 0), ("header", 54), ("core", 14), ("far", 1 << 20), ("farther", (1 << 32) - 1)):
            yield "start", f"{label}_b{bits}", bmp(rng, bits=bits, start=start)
        yield "start", f"gap_b{bits}", bmp(rng, bits=bits, gap=17)
        whole = bmp(rng, bits=bits)
        for end in cuts(whole, 12):
            yield "cut", f"b{bits}_{end}", whole[:end]
        yield "after", f"b{bits}", whole + b"junk"
    for label, width, height in (
        ("no_width", 0, 3), ("no_height", 3, 0), ("wide", 1 << 20, 1), ("negative_width", (1 << 32) - 3, 3),
        ("tall", 1, 1 << 20), ("lowest", 3, -(1 << 31)), ("below", 3, -(1 << 24) - 1), ("at", 3, -(1 << 24)),
    ):
        yield "size", label, bmp(rng, width, height, data=rng.bytes(40))
    for planes in (0, 2):
        yield "size", f"planes_{planes}", bmp(rng, planes=planes)
    for bits in (0, 3, 5, 15, 64):
        yield "size", f"bits_{bits}", bmp(rng, bits=bits, palette=b"")
    for magic in (b"BA", b"CI", b"Bm"):
        yield "size", f"magic_{magic.decode()}", magic + bmp(rng)[2:]
