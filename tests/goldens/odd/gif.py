"""GIF: screens, frames, palettes, extensions, and codes of LZW."""

import struct

import numpy as np

from .damage import cuts, number, one_of

DAMAGED = ("frame", "plain")


def blocks(data, size=255):
    return b"".join(bytes([len(data[at : at + size])]) + data[at : at + size] for at in range(0, len(data), size)) + b"\0"


def lzw(indices, bits, end=True, clear_first=True, clears=False):
    """Compressed indices."""
    clear, stop = 1 << bits, (1 << bits) + 1
    out, buffered, have = bytearray(), 0, 0

    def put(code, width):
        nonlocal buffered, have
        buffered |= code << have
        have += width
        while have >= 8:
            out.append(buffered & 255)
            buffered >>= 8
            have -= 8

    table, width = {bytes([i]): i for i in range(min(clear, 256))}, bits + 1
    following, last = clear + 2, b""
    if clear_first:
        put(clear, width)
    for count, index in enumerate(indices):
        string = last + bytes([index])
        if string in table:
            last = string
            continue
        put(table[last], width)
        if following < 4096:
            table[string] = following
            if following == 1 << width and width < 12:
                width += 1
            following += 1
        if following == 4096 and clears or clears and count % 50 == 49:
            put(clear, width)
            table, width, following = {bytes([i]): i for i in range(min(clear, 256))}, bits + 1, clear + 2
        last = bytes([index])
    if last:
        put(table[last], width)
    if end:
        put(stop, width)
    if have:
        out.append(buffered & 255)
    return bytes(out)


def extension(label, *parts):
    return b"!" + bytes([label]) + b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def control(transparent=None, disposal=0, delay=0):
    flags = disposal << 2 | (transparent is not None)
    return extension(0xF9, struct.pack("<BHB", flags, delay, transparent or 0))


def frame(rng, width=11, height=9, left=0, top=0, local=None, interlaced=False, bits=3, data=None, values=None, size=255,
          smooth=False):
    flags = (interlaced << 6) | (0 if local is None else 0x80 | (len(local) // 3).bit_length() - 2)
    if values is None:
        count = width * height
        values = np.repeat(rng.integers(0, 1 << min(bits, 8), count), rng.integers(1, 6, count))[:count] if smooth else \
            rng.integers(0, 1 << min(bits, 8), count)
        values = values.tolist()
    coded = blocks(lzw(values, bits), size) if data is None else data
    return b"," + struct.pack("<HHHHB", left, top, width, height, flags) + (local or b"") + bytes([bits]) + coded


def gif(rng, *parts, width=11, height=9, table=b"", background=0, version=b"89a", trailer=b";", aspect=0):
    flags = 0x80 | (len(table) // 3).bit_length() - 2 if table else 0
    return b"GIF" + version + struct.pack("<HHBBB", width, height, flags, background, aspect) + table + b"".join(parts) + trailer


def ramp(colors):
    return b"".join(bytes([i]) * 3 for i in range(colors))


def cases(rng):
    table, two, all_colors = rng.bytes(24), rng.bytes(6), rng.bytes(768)
    for bits, colors in ((2, two), (2, rng.bytes(12)), (3, table), (4, rng.bytes(48)), (8, all_colors)):
        for interlaced in (False, True):
            for height in (1, 2, 3, 5, 8, 9, 17):
                shape = frame(rng, 7, height, bits=bits, interlaced=interlaced)
                yield "plain", f"b{bits}_c{len(colors) // 3}_{height}" + "_interlaced" * interlaced, \
                    gif(rng, shape, width=7, height=height, table=colors)
    for transparent in (None, 0, 3, 7, 200):
        for background in (0, 5, 250):
            for local in (None, rng.bytes(24)):
                name = f"t{transparent}_bg{background}" + "_local" * (local is not None)
                for label, place in (
                    ("inside", {"width": 5, "height": 4, "left": 3, "top": 2}), ("larger", {"width": 15, "height": 12}),
                    ("partly", {"width": 9, "height": 8, "left": 6, "top": 5}), ("outside", {"left": 20, "top": 13}),
                ):
                    parts = [] if transparent is None else [control(transparent, number(rng, 0, 7))]
                    yield "frame", f"{label}_{name}", gif(
                        rng, *parts, frame(rng, local=local, interlaced=rng.random() < 0.5, **place), table=table,
                        background=background)
    for label, top, local in (
        ("none", b"", None), ("gray", ramp(8), None), ("local_gray", table, ramp(8)), ("both_gray", ramp(8), ramp(8)),
        ("global_gray", ramp(8), table), ("only_local", b"", table), ("only_local_gray", b"", ramp(8)), ("short", two, None),
        ("short_local", table, two), ("gray_256", ramp(256), None), ("gray_2", ramp(2), None),
    ):
        for transparent in (None, 2):
            parts = [] if transparent is None else [control(transparent)]
            shape = frame(rng, 6, 5, 2, 1, local)
            yield "palette", f"{label}_t{transparent}", gif(rng, *parts, shape, table=top)
    for bits in range(14):
        values = rng.integers(0, 1 << min(bits, 3), 99).tolist()
        for label, data in (("coded", blocks(lzw(values, bits) if bits else b"\2\0")), ("random", blocks(rng.bytes(150)))):
            yield "bits", f"{bits}_{label}", gif(rng, frame(rng, bits=bits, data=data), table=table)
    long = rng.integers(0, 8, 99).tolist()
    for label, options in (("no_end", {"end": False}), ("no_clear", {"clear_first": False}), ("clears", {"clears": True})):
        yield "lzw", label, gif(rng, frame(rng, data=blocks(lzw(long, 3, **options))), table=table)
    yield "lzw", "short", gif(rng, frame(rng, data=blocks(lzw(long[:60], 3))), table=table)
    yield "lzw", "long", gif(rng, frame(rng, data=blocks(lzw(long * 2, 3))), table=table)
    yield "lzw", "twice", gif(rng, frame(rng, data=blocks(lzw(long[:60], 3) + lzw(long, 3))), table=table)
    full = rng.integers(0, 256, 90 * 70).tolist()
    for label, options in (("full", {}), ("full_clears", {"clears": True})):
        data = blocks(lzw(full, 8, **options))
        yield "lzw", label, gif(rng, frame(rng, 90, 70, bits=8, data=data), width=90, height=70, table=all_colors)
    for size in (1, 2, 7, 254):
        yield "blocks", f"of_{size}", gif(rng, frame(rng, size=size), table=table)
    coded = lzw(long, 3)
    yield "blocks", "no_terminator", gif(rng, frame(rng, data=blocks(coded)[:-1]), table=table)
    yield "blocks", "no_terminator_no_trailer", gif(rng, frame(rng, data=blocks(coded)[:-1]), table=table, trailer=b"")
    yield "blocks", "too_long", gif(rng, frame(rng, data=b"\xff" + coded), table=table)
    yield "blocks", "empty_first", gif(rng, frame(rng, data=b"\0" + blocks(coded)), table=table)
    for index in range(40):
        data = blocks(rng.bytes(number(rng, 0, 120)), one_of(rng, (255, 30, 1)))
        yield "random", str(index), gif(rng, frame(rng, bits=number(rng, 1, 8), data=data), table=all_colors)
    for label, parts in (
        ("comment", [extension(0xFE, b"hello", b"there")]), ("netscape", [extension(0xFF, b"NETSCAPE2.0", b"\1\0\0")]),
        ("netscape_short", [extension(0xFF, b"NETSCAPE2.0")]), ("application", [extension(0xFF, b"XMP DataXMP", b"junk" * 9)]),
        ("text", [extension(1, bytes(12), b"hello")]), ("unknown", [extension(0x42, b"12", b"345")]),
        ("control_empty", [extension(0xF9)]), ("control_short", [extension(0xF9, b"\1\0")]),
        ("control_three", [extension(0xF9, b"\1\0\0")]), ("control_three_opaque", [extension(0xF9, b"\0\0\0")]),
        ("control_long", [extension(0xF9, b"\1\0\0\3\0\0\0")]), ("two_controls", [control(2), control(None)]),
        ("two_transparent", [control(2), control(4)]), ("comment_empty", [extension(0xFE)]), ("junk", [b"junk"]),
        ("zeros", [bytes(9)]), ("unended", [b"!\xfe\5hello"]),
    ):
        yield "extension", label, gif(rng, *parts, frame(rng, 6, 5, 1, 1), table=table)
    for disposal in range(4):
        first = [control(1, disposal), frame(rng, 6, 5, 2, 3)]
        yield "frames", f"disposal_{disposal}", gif(rng, *first, control(2), frame(rng, 12, 10), table=table)
    for label, options in (
        ("87a", {"version": b"87a"}), ("88a", {"version": b"88a"}), ("no_trailer", {"trailer": b""}), ("aspect", {"aspect": 99}),
        ("screen_0", {"width": 0, "height": 0}), ("screen_wide", {"width": 5000, "height": 1}),
    ):
        yield "screen", label, gif(rng, frame(rng), table=table, **options)
    for label, width, height in (("no_width", 0, 4), ("no_height", 4, 0), ("empty", 0, 0)):
        data = blocks(coded)
        yield "screen", label, gif(rng, frame(rng, width, height, data=data), table=table)
    yield "screen", "no_frame", gif(rng, table=table)
    yield "screen", "trailer_first", gif(rng, b";", frame(rng), table=table)
    whole = gif(rng, control(3), frame(rng, local=rng.bytes(24), interlaced=True), table=table)
    for end in cuts(whole, 60):
        yield "cut", str(end), whole[:end]
