"""TIFF: kinds of samples, compression, strips, tiles, and tags that contradict each other."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from common import picture
from .damage import cuts, number

DAMAGED = ("samples", "coded", "tiles", "strips")
SHORT, LONG = 3, 4
PACK = {1: "B", 2: "B", SHORT: "H", LONG: "I", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f", 13: "I", 16: "Q"}


def tiff(data, tags, order="II", big=False, more=b"", magic=None):
    """A file of one image. `tags` is {tag: values or (type, values)}; 273 and 324 are offsets into `data`."""
    mark = "<" if order == "II" else ">"
    wide, head = ("Q", 16) if big else ("I", 8)
    entries = []
    for tag, value in sorted(tags.items()):
        kind, values = value if isinstance(value, tuple) else (LONG if tag in (273, 279, 324, 325) else SHORT, value)
        values = list(values) if isinstance(values, (list, bytes)) else [values]
        entries.append((tag, kind, values))
    count = "Q" if big else "H"
    directory = struct.calcsize(mark + count) + len(entries) * (20 if big else 12) + (8 if big else 4)
    values_at = head + len(data)
    stored, out = b"", b""
    for tag, kind, values in entries:
        if tag in (273, 324):
            values = [value + head for value in values]
        raw = struct.pack(mark + PACK[kind] * len(values), *values)
        limit = 8 if big else 4
        if len(raw) > limit:
            place = values_at + directory + len(stored)
            stored += raw + b"\0" * (len(raw) % 2)
            raw = struct.pack(mark + wide, place)
        out += struct.pack(mark + "HH" + wide, tag, kind, len(values)) + raw.ljust(limit, b"\0")
    first = struct.pack(mark + "HHHQ", 43, 8, 0, values_at) if big else struct.pack(mark + "HI", magic or 42, values_at)
    directory = struct.pack(mark + count, len(entries)) + out + bytes(8 if big else 4)
    return order.encode() + first + data + directory + stored + more


def noise(rng, count):
    """Bytes of 16 values, which take half the space."""
    return rng.choice(np.frombuffer(rng.bytes(16), "u1"), count).tobytes()


def image(rng, width=11, height=7, bits=8, samples=1, photometric=1, order="II", compress=None, compression=1, rows=None, **tags):
    """A file of strips."""
    row = -(-width * bits * samples // 8)
    raw, strips, rows = noise(rng, row * height), [], rows or height
    for start in range(0, height, rows):
        part = raw[row * start : row * min(start + rows, height)]
        strips.append(compress(part) if compress else part)
    lengths = [len(strip) for strip in strips]
    offsets = [sum(lengths[:i]) for i in range(len(lengths))]
    fields = {256: width, 257: height, 258: [bits] * samples, 259: compression, 262: photometric, 273: offsets, 277: samples, 278: rows, 279: lengths}
    fields |= {int(tag[1:]): value for tag, value in tags.items()}
    big = fields.pop(0, False)
    return tiff(b"".join(strips), {tag: value for tag, value in fields.items() if value is not None}, order, big)


def tiled(rng, width, height, tile, samples, compress=None, compression=1, order="II", bits=8):
    across, down = -(-width // tile), -(-height // tile)
    parts = [noise(rng, tile * tile * samples * bits // 8) for _ in range(across * down)]
    parts = [compress(part) if compress else part for part in parts]
    offsets = [sum(len(part) for part in parts[:i]) for i in range(len(parts))]
    return tiff(b"".join(parts), {256: width, 257: height, 258: [bits] * samples, 259: compression, 262: 2 if samples > 2 else 1, 277: samples, 322: tile, 323: tile,
                                  324: offsets, 325: [len(part) for part in parts]}, order)


def saved(image, **options):
    out = io.BytesIO()
    image.save(out, "TIFF", **options)
    return out.getvalue()


def packbits(data):
    return b"".join(bytes([len(data[at : at + 100]) - 1]) + data[at : at + 100] for at in range(0, len(data), 100))


def cases(rng):
    for order in ("II", "MM"):
        for bits in (1, 2, 4, 8, 12, 16, 32, 64):
            for samples, photometric in ((1, 0), (1, 1), (2, 1), (3, 2), (4, 2), (4, 5), (5, 2), (5, 5), (3, 6), (3, 8), (1, 3), (1, 4), (6, 2)):
                wanted = {0: 1, 1: 1, 2: 3, 5: 4}.get(photometric, samples)
                extra = {"t338": [0] * (samples - wanted)} if samples > wanted else {}
                if photometric == 3:
                    extra = {"t320": rng.integers(0, 65536, 3 << min(bits, 8)).tolist()}
                yield "samples", f"{order}_b{bits}_s{samples}_p{photometric}", image(rng, bits=bits, samples=samples, photometric=photometric, order=order, **extra)
        for extra in (0, 1, 2, 3, 999):
            for samples, photometric in ((2, 1), (4, 2), (5, 5)):
                yield "extra", f"{order}_{extra}_s{samples}", image(rng, samples=samples, photometric=photometric, order=order, t338=extra)
        for form in (1, 2, 3, 4, 5, 6):
            for bits in (8, 16, 32):
                yield "forms", f"{order}_{form}_b{bits}", image(rng, bits=bits, order=order, t339=form)
                yield "forms", f"{order}_{form}_b{bits}_rgb", image(rng, bits=bits, samples=3, photometric=2, order=order, t339=[form] * 3)
        yield "samples", f"{order}_big", image(rng, order=order, t0=True)
        yield "samples", f"{order}_mixed", image(rng, samples=3, photometric=2, order=order, t258=[8, 8, 4])
        yield "samples", f"{order}_no_extra", image(rng, samples=4, photometric=2, order=order)
        yield "samples", f"{order}_no_extra_gray", image(rng, samples=2, photometric=1, order=order)
    for value in range(10):
        for samples in (1, 3):
            yield "orientation", f"{value}_s{samples}", image(rng, 9, 6, samples=samples, photometric=2 if samples > 1 else 1, t274=value)
    for tag, values in ((266, (0, 1, 2, 3)), (284, (0, 1, 2, 3)), (317, (1, 2, 3, 9)), (254, (0, 1, 4)), (262, range(12)), (259, (0, 1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34712, 34925, 50000, 50001, 65000))):
        for value in values:
            for bits in (1, 8):
                for samples in (1, 3):
                    photometric = 2 if samples > 1 else 1
                    yield "tags", f"{tag}_{value}_b{bits}_s{samples}", image(rng, bits=bits, samples=samples, **({"photometric": photometric} if tag != 262 else {}), **{f"t{tag}": value})
    for label, compress, compression in (("raw", None, 1), ("deflate", zlib.compress, 8), ("old_deflate", zlib.compress, 32946), ("packbits", packbits, 32773)):
        for samples in (1, 3, 4):
            photometric = 2 if samples > 1 else 1
            extra = {"t338": 2} if samples == 4 else {}
            for rows in (1, 2, 3, 7, 50, 1 << 31):
                fields = {"t278": (LONG, rows)} if rows > 7 else {}
                yield "strips", f"{label}_s{samples}_r{rows}", image(rng, samples=samples, photometric=photometric, compress=compress, compression=compression, rows=min(rows, 7), **fields, **extra)
            for predictor in (1, 2, 3):
                for bits in (8, 16):
                    yield "predictor", f"{label}_s{samples}_b{bits}_{predictor}", image(rng, bits=bits, samples=samples, photometric=photometric, compress=compress, compression=compression, t317=predictor, **extra)
            for width, height, tile in ((16, 16, 16), (17, 14, 16), (5, 20, 16)):
                for order in ("II", "MM"):
                    yield "tiles", f"{label}_{order}_s{samples}_{width}x{height}", tiled(rng, width, height, tile, samples, compress, compression, order)
    for tile in (1, 8, 10, 24):
        yield "tiles", f"side_{tile}", tiled(rng, 20, 20, tile, 3)
    for label, fields in (
        ("no_rows", {"t278": None}), ("no_lengths", {"t279": None}), ("no_offsets", {"t273": None}), ("no_width", {"t256": None}), ("no_height", {"t257": None}), ("no_bits", {"t258": None}),
        ("no_photometric", {"t262": None}), ("no_samples", {"t277": None}), ("no_compression", {"t259": None}), ("width_0", {"t256": 0}), ("height_0", {"t257": 0}), ("rows_0", {"t278": 0}),
        ("samples_0", {"t277": 0}), ("length_short", {"t279": 5}), ("length_long", {"t279": 5000}), ("length_0", {"t279": 0}), ("offset_far", {"t273": 100000}), ("offset_0", {"t273": (LONG, 0)}),
        ("taller", {"t257": 9}), ("wider", {"t256": 12}), ("shorter", {"t257": 5}), ("narrower", {"t256": 9}), ("two_bits", {"t258": [8, 8]}), ("long_width", {"t256": (LONG, 11)}),
        ("byte_width", {"t256": (1, 11)}), ("huge", {"t256": (LONG, 1 << 30)}), ("two_widths", {"t256": [11, 11]}), ("strips_more", {"t273": [0, 7], "t279": [7, 7]}),
    ):
        for samples in (1, 3):
            yield "fields", f"{label}_s{samples}", image(rng, samples=samples, photometric=2 if samples > 1 else 1, **fields)
    odd = picture(11, 15, 13)
    color = Image.fromarray(odd)
    modes = {
        "1": color.convert("1"), "L": color.convert("L"), "LA": Image.fromarray(odd[..., :2]), "P": color.quantize(50), "PA": color.quantize(50).convert("PA"), "RGB": color, "RGBA": Image.fromarray(np.dstack([odd, odd[..., :1]])),
        "CMYK": color.convert("CMYK"), "YCbCr": color.convert("YCbCr"), "I": color.convert("I"), "F": color.convert("F"), "I16": Image.fromarray(odd[..., 0].astype(np.uint16) * 3),
        "I16B": Image.frombytes("I;16B", (15, 11), odd[..., :2].tobytes()),
    }
    for mode, source in modes.items():
        # libtiff crashes on some kinds of samples that a compression does not take.
        fax = ("group3", "group4", "tiff_ccitt") if mode == "1" else ()
        lossy = ("jpeg",) if mode in ("L", "RGB", "CMYK") else ()
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma", "zstd", *lossy, *fax):
            yield "coded", f"{mode}_{compression}", saved(source, compression=compression)
        for compression in ("tiff_lzw", "tiff_adobe_deflate"):
            if mode in ("L", "RGB", "RGBA", "I16"):
                yield "coded", f"{mode}_{compression}_predictor", saved(source, compression=compression, tiffinfo={317: 2})
                yield "coded", f"{mode}_{compression}_strips", saved(source, compression=compression, tiffinfo={278: 5})
    yield "pages", "two", saved(color, save_all=True, append_images=[color.convert("L")])
    whole = image(rng, samples=3, photometric=2, rows=2)
    for end in cuts(whole, 40):
        yield "cut", str(end), whole[:end]
    for magic in (0, 41, 43, 44, 0x4F52, 0x55):
        yield "magic", str(magic), whole[:2] + struct.pack("<H", magic) + whole[4:]
    yield "magic", "IM", b"IM" + whole[2:]
    yield "magic", "II_swapped", whole[:2] + b"\0\x2a" + whole[4:]
    swapped = image(rng, samples=3, photometric=2, order="MM")
    for magic in (b"\x2a\0", b"\0\x2b", b"\x2b\0"):
        yield "magic", f"MM_{magic.hex()}", swapped[:2] + magic + swapped[4:]
    for tag in (256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 284, 296, 317, 338, 339):
        value = {256: 11, 257: 7, 258: 8, 273: 0, 278: 7, 279: 77}.get(tag, 1)
        for kind in PACK:
            for compression in (1, 32773):
                options = {"compress": packbits, "compression": compression} if compression > 1 else {}
                if (tag, compression) not in ((259, 32773), (273, 32773), (279, 32773), (338, 32773)):
                    samples = 2 if tag == 338 else 1
                    yield "types", f"{tag}_{kind}_c{compression}", image(rng, samples=samples, **options, **{f"t{tag}": (kind, value)})
    for index in range(60):
        data = bytearray(zlib.compress(rng.bytes(11 * 7 * 3)))
        data[number(rng, 0, len(data) - 1)] ^= 1 << number(rng, 0, 7)
        yield "stream", str(index), tiff(bytes(data), {256: 11, 257: 7, 258: [8] * 3, 259: 8, 262: 2, 273: 0, 277: 3, 278: 7, 279: len(data)})
