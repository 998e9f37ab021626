"""PNG: every kind of pixels, and every chunk that decides whether Pillow opens a file."""

import struct
import zlib

import numpy as np

from .damage import change, cuts, number, one_of

DAMAGED = ("plain", "palette", "animation", "text")
MAGIC = b"\x89PNG\r\n\x1a\n"
KINDS = [(0, depth) for depth in (1, 2, 4, 8, 16)] + [(2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(name, data=b"", crc=None):
    sum_of = zlib.crc32(name + data) if crc is None else crc
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", sum_of)


def header(width, height, depth, color, interlaced=0, compression=0, method=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, compression, method, interlaced))


def rows(rng, width, height, depth, color, interlaced, filters=None):
    """Random samples with a filter before each row, of which the pixels are as random."""
    out = b""
    for left, top, across, down in PASSES if interlaced else ((0, 0, 1, 1),):
        columns, lines = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0:
            bits = columns * CHANNELS.get(color, 1) * depth
            for _ in range(lines):
                out += bytes([number(rng, 0, 4) if filters is None else one_of(rng, filters)]) + rng.bytes(-(-bits // 8))
    return out


def png(rng, width=9, height=7, depth=8, color=2, interlaced=0, before=b"", between=b"", after=b"", data=None, filters=None,
        level=6, pieces=1, palette=None, end=True):
    if palette is None and color == 3:
        palette = rng.bytes(3 << min(depth, 8))
    if data is None:
        data = zlib.compress(rows(rng, width, height, depth, color, interlaced, filters), level)
    places = np.linspace(0, len(data), pieces + 1).astype(int)
    stored = [chunk(b"IDAT", data[start:stop]) for start, stop in zip(places, places[1:])]
    out = MAGIC + header(width, height, depth, color, interlaced) + before
    out += chunk(b"PLTE", palette) if palette is not None else b""
    return out + between + b"".join(stored) + after + (chunk(b"IEND") if end else b"")


def split(data):
    """The chunks of a file, as far as they are whole: (offset, name, length)."""
    at, found = 8, []
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            break
        found.append((at, data[at + 4 : at + 8], length))
        at += 12 + length
    return found


def with_right_checksums(data):
    """Computes the checksums again, so that damage reaches what reads the content."""
    out = bytearray(data)
    for at, name, length in split(data):
        out[at + 8 + length : at + 12 + length] = struct.pack(">I", zlib.crc32(data[at + 4 : at + 8 + length]))
    return bytes(out)


def control(sequence, width, height, left=0, top=0, dispose=0, blend=0):
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", sequence, width, height, left, top, 1, 10, dispose, blend))


def profile(data, method=0, name=b"icc"):
    return chunk(b"iCCP", name + b"\0" + bytes([method]) + data)


ANCILLARY = {
    "gAMA": b"\0\0\xb1\x8f", "cHRM": bytes(32), "sRGB": b"\0", "pHYs": struct.pack(">IIB", 2835, 2835, 1), "tIME": bytes(7), "sBIT": b"\5\6\5",
    "hIST": bytes(4), "bKGD": bytes(6), "sPLT": b"name\0\x08", "eXIf": b"II*\0\x08\0\0\0\0\0", "tEXt": b"key\0value", "zTXt": b"key\0\0" + zlib.compress(b"value"),
    "iTXt": b"key\0\0\0en\0key\0value", "iCCP": b"icc\0\0" + zlib.compress(b"profile"), "PLTE": bytes(9), "tRNS": bytes(6), "abCd": b"private",
    "ABCD": b"critical", "acTL": struct.pack(">II", 1, 0), "oFFs": bytes(9), "cICP": bytes(4), "IHDR": struct.pack(">IIBBBBB", 9, 7, 8, 2, 0, 0, 0),
}


def cases(rng):
    for color, depth in KINDS:
        for interlaced in (0, 1):
            for width, height in ((1, 1), (5, 3), (9, 7), (17, 10)):
                name = f"c{color}_d{depth}_{width}x{height}" + "_interlaced" * interlaced
                yield "plain", name, png(rng, width, height, depth, color, interlaced)
        for length in (0, 1, 2, 3, 5, 6, 7, 256):
            alphas = rng.bytes(length) if color != 3 else bytes(rng.choice([0, 255, 255, 255, 99], length).astype("u1"))
            yield "transparency", f"c{color}_d{depth}_{length}", png(rng, 5, 4, depth, color, between=chunk(b"tRNS", alphas))
    for alphas in (b"\0", b"\xff\0\xff", b"\xff\xff\0", b"\0\0", b"\xff\xff", b"\xff\0\n", b"\xff\0\xff\n", b"\x80"):
        for palette in (None, b""):
            label = alphas.hex() + "_no_palette" * (palette is not None)
            yield "transparency", label, png(rng, 5, 4, 8, 3, between=chunk(b"tRNS", alphas), palette=palette)
    for color in range(8):
        for depth in (0, 1, 2, 3, 4, 8, 16, 32):
            if (color, depth) not in KINDS:
                yield "kinds", f"c{color}_d{depth}", png(rng, 5, 4, depth, color, data=zlib.compress(bytes(400)))
    for depth in (1, 2, 4, 8):
        for length in (0, 1, 2, 3, 4, 5, 6, 11, 12, 47, 48, 766, 768, 769, 771, 3000):
            yield "palette", f"d{depth}_{length}", png(rng, 7, 5, depth, 3, palette=rng.bytes(length))
    for color in (0, 2, 4, 6):
        yield "palette", f"suggested_c{color}", png(rng, 7, 5, 8, color, palette=rng.bytes(30))
    plte = chunk(b"PLTE", rng.bytes(48))
    yield "palette", "twice", png(rng, 7, 5, 4, 3, between=plte)
    yield "palette", "after", png(rng, 7, 5, 4, 3, palette=b"", after=plte)
    yield "palette", "before_header", MAGIC + plte + png(rng, 7, 5, 4, 3)[8:]
    for filters in ((0,), (1,), (2,), (3,), (4,), (5,), (255,)):
        for color, depth in ((0, 1), (0, 16), (2, 8), (6, 16)):
            yield "filters", f"f{filters[0]}_c{color}_d{depth}", png(rng, depth=depth, color=color, filters=filters)
    for label, options in (
        ("stored", {"level": 0}), ("fast", {"level": 1}), ("best", {"level": 9}), ("pieces", {"pieces": 5}), ("bytes", {"pieces": 200}),
        ("no_end", {"end": False}),
    ):
        yield "data", label, png(rng, **options)
    raw = rows(rng, 9, 7, 8, 2, 0)
    packed = zlib.compress(raw)
    for label, data in (
        ("row_missing", zlib.compress(raw[:-28])), ("rows_missing", zlib.compress(raw[: 28 * 3])), ("no_rows", zlib.compress(b"")),
        ("row_cut", zlib.compress(raw[:-5])), ("filter_only", zlib.compress(raw[:-27])), ("row_more", zlib.compress(raw + raw[:28])),
        ("byte_more", zlib.compress(raw + b"\0")), ("junk_after", packed + b"junk"), ("adler", packed[:-4] + b"\1\2\3\4"),
        ("adler_cut", packed[:-2]), ("no_adler", packed[:-4]), ("empty", b""), ("zlib_header", b"\x78\x02" + packed[2:]),
        ("window", b"\x18\x19" + packed[2:]), ("dictionary", b"\x78\xbb" + bytes(4) + packed[2:]), ("method", b"\x77\x85" + packed[2:]),
        ("adler_row_missing", zlib.compress(raw[:-28])[:-4] + bytes(4)), ("adler_row_more", zlib.compress(raw + raw)[:-4] + bytes(4)),
    ):
        for pieces in (1, 3):
            for end in (True, False):
                yield "data", f"{label}_{pieces}" + "_no_end" * (not end), png(rng, data=data, pieces=pieces, end=end)
    for interlaced in (0, 1):
        for depth, color in ((1, 0), (4, 3), (8, 2), (16, 6)):
            raw = rows(rng, 13, 11, depth, color, interlaced)
            for share in (1, 3, 6, 9):
                data = zlib.compress(raw[: len(raw) * share // 10])
                yield "rows", f"c{color}_d{depth}_i{interlaced}_{share}", png(rng, 13, 11, depth, color, interlaced, data=data)
    large = zlib.compress(b"".join(b"\0" + bytes([y]) * 600 for y in range(180)), 0)
    yield "data", "stored_64k", png(rng, 200, 180, data=large)
    yield "data", "stored_64k_adler", png(rng, 200, 180, data=large[:-1] + bytes([large[-1] ^ 1]))
    empty = chunk(b"IDAT")
    yield "order", "empty_data_first", png(rng, between=empty)
    yield "order", "empty_data_last", png(rng, after=empty)
    yield "order", "data_first", MAGIC + chunk(b"IDAT", packed) + png(rng)[8:]
    yield "order", "text_between", png(rng, between=chunk(b"IDAT", packed[:50]) + chunk(b"tEXt", b"a\0b"), data=packed[50:])
    yield "order", "nothing", MAGIC
    yield "order", "end_only", MAGIC + chunk(b"IEND")
    yield "order", "header_only", MAGIC + header(9, 7, 8, 2)
    yield "order", "no_data", MAGIC + header(9, 7, 8, 2) + chunk(b"IEND")
    yield "order", "no_header", MAGIC + chunk(b"IDAT", packed) + chunk(b"IEND")
    yield "order", "end_twice", png(rng) + chunk(b"IEND")
    yield "order", "junk_after", png(rng) + b"junk"
    yield "order", "data_after_end", png(rng) + chunk(b"IDAT", packed)
    for name, content in ANCILLARY.items():
        code = name.encode()
        for place in ("before", "after"):
            yield "chunks", f"{name}_{place}", png(rng, **{place: chunk(code, content)})
            yield "chunks", f"{name}_{place}_crc", png(rng, **{place: chunk(code, content, 12345)})
            for length in sorted({0, 1, len(content) // 2, len(content) - 1, len(content) + 1}):
                changed = (content + b"\1")[:length]
                yield "chunks", f"{name}_{place}_{length}", png(rng, **{place: chunk(code, changed)})
        yield "chunks", f"{name}_between", png(rng, color=3, between=chunk(code, content))
        yield "chunks", f"{name}_long", png(rng, before=struct.pack(">I", 1 << 30) + code + content)
        yield "chunks", f"{name}_longer", png(rng, after=struct.pack(">I", 0xFFFFFFFF) + code + content)
    for code in (b"    ", b"a-Cd", b"a_Cd", b"12ab", b"ab\0d", b"\xffabc", b"IDAt", b"iDAT", b"iend"):
        yield "names", code.hex(), png(rng, before=chunk(code, b"x"))
        yield "names", code.hex() + "_after", png(rng, after=chunk(code, b"x"))
    for label, made in (
        ("IHDR", MAGIC + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 7, 8, 2, 0, 0, 0), 1) + png(rng)[33:]),
        ("PLTE", png(rng, color=3, palette=b"", between=chunk(b"PLTE", bytes(768), 1))),
        ("IDAT", png(rng, data=packed).replace(chunk(b"IDAT", packed), chunk(b"IDAT", packed, 1))),
        ("IEND", png(rng, end=False, after=chunk(b"IEND", b"", 1))), ("IEND_long", png(rng, end=False, after=chunk(b"IEND", b"12"))),
    ):
        yield "checksums", label, made
    for label, fields in (
        ("no_width", (0, 7, 8, 2)), ("no_height", (9, 0, 8, 2)), ("wide", (1 << 31, 7, 8, 2)), ("negative", (0xFFFFFFFF, 7, 8, 2)),
        ("interlaced_2", (9, 7, 8, 2, 2)), ("compression", (9, 7, 8, 2, 0, 1)), ("method", (9, 7, 8, 2, 0, 0, 1)),
    ):
        yield "header", label, MAGIC + header(*fields) + chunk(b"IDAT", packed) + chunk(b"IEND")
    for length in (0, 4, 8, 12, 14):
        content = struct.pack(">IIBBBBBB", 9, 7, 8, 2, 0, 0, 0, 0)[:length]
        yield "header", f"of_{length}", MAGIC + chunk(b"IHDR", content) + chunk(b"IDAT", packed) + chunk(b"IEND")
    yield "header", "twice", png(rng, before=header(5, 4, 8, 0))
    yield "header", "unknown_then_known", MAGIC + header(9, 7, 3, 2) + png(rng)[8:]
    long_text = zlib.compress(bytes((1 << 20) + 1))
    for label, before in (
        ("bomb_zTXt", chunk(b"zTXt", b"key\0\0" + long_text)), ("bomb_iTXt", chunk(b"iTXt", b"key\0\1\0\0\0" + long_text)),
        ("bomb_iCCP", profile(long_text)), ("limit_zTXt", chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(1 << 20)))),
        ("zTXt_method", chunk(b"zTXt", b"key\0\1abc")), ("zTXt_damaged", chunk(b"zTXt", b"key\0\0abc")), ("zTXt_bare", chunk(b"zTXt", b"key")),
        ("tEXt_no_key", chunk(b"tEXt", b"\0value")), ("tEXt_bare", chunk(b"tEXt", b"key")), ("tEXt_latin", chunk(b"tEXt", b"k\xe9y\0v\xe9")),
        ("tEXt_transparency", chunk(b"tEXt", b"transparency\0x")), ("tEXt_interlace", chunk(b"tEXt", b"interlace\0x")),
        ("tEXt_interlace_empty", chunk(b"tEXt", b"interlace\0")), ("tEXt_bbox", chunk(b"tEXt", b"bbox\0x")), ("tEXt_dpi", chunk(b"tEXt", b"dpi\0x")),
        ("tEXt_gamma", chunk(b"tEXt", b"gamma\0x")), ("tEXt_exif", chunk(b"tEXt", b"exif\0x")), ("tEXt_icc", chunk(b"tEXt", b"icc_profile\0x")),
        ("tEXt_loop", chunk(b"tEXt", b"loop\0x")), ("tEXt_size", chunk(b"tEXt", b"size\0x")), ("iTXt_short", chunk(b"iTXt", b"key\0\0")),
        ("iTXt_method", chunk(b"iTXt", b"key\0\1\1\0\0abc")), ("iTXt_damaged", chunk(b"iTXt", b"key\0\1\0\0\0abc")), ("iTXt_flag", chunk(b"iTXt", b"key\0\7\0\0\0abc")),
        ("iTXt_not_utf8", chunk(b"iTXt", b"key\0\0\0\0\0\xff")), ("iTXt_language", chunk(b"iTXt", b"key\0\0\0\xff\0\0x")), ("iCCP_method", profile(b"x", 1)),
        ("iCCP_damaged", profile(b"x")), ("iCCP_bare", chunk(b"iCCP", b"name")), ("iCCP_empty", chunk(b"iCCP")), ("iCCP_no_name", profile(zlib.compress(b"x"), name=b"")),
        ("texts", b"".join(chunk(b"zTXt", b"k%d\0\0" % i + zlib.compress(bytes(1 << 20))) for i in range(65))),
    ):
        for color in (2, 3):
            yield "texts" if len(before) > 9000 else "text", f"{label}_c{color}", png(rng, 5, 4, 8, color, before=before)
    one, two = struct.pack(">II", 1, 0), struct.pack(">II", 2, 0)
    pixels = zlib.compress(rows(rng, 9, 7, 8, 2, 0))
    later = control(1, 9, 7) + chunk(b"fdAT", struct.pack(">I", 2) + pixels)
    for label, before, after in (
        ("still", chunk(b"acTL", one) + control(0, 9, 7), b""), ("two", chunk(b"acTL", two) + control(0, 9, 7), later),
        ("hidden", chunk(b"acTL", one), control(0, 9, 7) + chunk(b"fdAT", struct.pack(">I", 1) + pixels)), ("no_control", chunk(b"acTL", two), later),
        ("disposed", chunk(b"acTL", two) + control(0, 9, 7, dispose=2, blend=1), later), ("no_actl", control(0, 9, 7), later),
        ("zero", chunk(b"acTL", bytes(8)) + control(0, 9, 7), later), ("huge", chunk(b"acTL", b"\xff" * 8) + control(0, 9, 7), later),
        ("twice", chunk(b"acTL", two) * 2 + control(0, 9, 7), later), ("outside", chunk(b"acTL", two) + control(0, 9, 7, 1, 1), later),
        ("order", chunk(b"acTL", two) + control(3, 9, 7), later), ("order_later", chunk(b"acTL", two) + control(0, 9, 7), control(5, 9, 7)),
        ("data_order", chunk(b"acTL", two) + control(0, 9, 7), control(1, 9, 7) + chunk(b"fdAT", struct.pack(">I", 9) + pixels)),
        ("data_short", chunk(b"acTL", two) + control(0, 9, 7), control(1, 9, 7) + chunk(b"fdAT", b"\0\0")),
        ("data_first", chunk(b"acTL", two) + control(0, 9, 7) + chunk(b"fdAT", struct.pack(">I", 1) + pixels), b""),
        ("data_alone", chunk(b"fdAT", struct.pack(">I", 0) + pixels), b""), ("cut", chunk(b"acTL", two) + control(0, 9, 7), later[:-30]),
    ):
        yield "animation", label, png(rng, data=pixels, before=before, after=after)
    for interlaced in (0, 1):
        for left, top, width, height in ((2, 1, 5, 4), (0, 0, 5, 4), (4, 3, 5, 4), (0, 0, 0, 4), (3, 0, 6, 7)):
            before = chunk(b"acTL", two) + control(0, width, height, left, top)
            for color, depth in ((2, 8), (3, 8), (0, 1), (6, 16)):
                data = zlib.compress(rows(rng, max(width, 1), height, depth, color, interlaced))
                yield "animation", f"part_{left}_{top}_{width}_c{color}_i{interlaced}", \
                    png(rng, 9, 7, depth, color, interlaced, before=before, data=data, after=later)
    for color, depth in ((3, 4), (2, 8)):
        whole = png(rng, 9, 7, depth, color, before=chunk(b"tEXt", b"a\0b"), pieces=2)
        for end in cuts(whole, 40):
            yield "cut", f"c{color}_{end}", whole[:end]
    for index in range(120):
        color, depth = one_of(rng, KINDS)
        data = bytearray(zlib.compress(rows(rng, 9, 7, depth, color, 0), one_of(rng, (0, 1, 6))))
        change(data, rng)
        yield "stream", str(index), png(rng, depth=depth, color=color, data=bytes(data), end=rng.random() < 0.7, pieces=number(rng, 1, 3))
