"""12_formats: rarer kinds of files to RGB, as `Image.open(file).convert("RGB")` gives them.

The arithmetic-coded and the unfinished progressive JPEGs come from `cjpeg` of libjpeg-turbo, which
Pillow does not expose (Debian: libjpeg-turbo-progs).
"""

import io
import struct
import subprocess
import tempfile

import numpy as np
from PIL import Image, features
import PIL

from common import picture, write_json, write_png
from decode import case, segments

SCANS = {
    "dc_only": "0,1,2: 0-0, 0, 0;",
    "dc_rough": "0,1,2: 0-0, 0, 3;",
    "some_ac": "0,1,2: 0-0, 0, 1; 0: 1-5, 0, 2; 2: 1-63, 0, 1;",
    "refined_ac": "0,1,2: 0-0, 0, 0; 0: 1-5, 0, 2; 0: 1-5, 2, 1; 1: 1-2, 0, 0;",
}
SAMPLINGS = ("3x1", "1x3", "3x2", "4x1", "1x4", "4x2", "2x4", "1x2", "2x1,1x2,1x1", "1x1,2x2,1x1", "2x2,2x1,1x2")


def cjpeg(pixels, *options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PPM")
    return subprocess.run(["cjpeg", *options], input=out.getvalue(), capture_output=True, check=True).stdout


def scripted(pixels, script, *options):
    with tempfile.NamedTemporaryFile("w", suffix=".scans") as file:
        file.write(script)
        file.flush()
        return cjpeg(pixels, "-scans", file.name, *options)


def without_tables(data):
    at = segments(data)
    while 0xC4 in at:
        start = at[0xC4]
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
        at = segments(data)
    return data


def jpegs():
    odd = picture(37, 53, 1)
    for coding in ("-arithmetic",), ("-arithmetic", "-progressive"):
        name = "_".join(option[1:] for option in coding)
        for sampling in ("1x1", "2x2", "2x1"):
            yield f"{name}_{sampling}", "clean", "arithmetic coding", cjpeg(odd, "-sample", sampling, *coding)
        yield f"{name}_gray", "clean", "arithmetic coding, gray", cjpeg(odd, "-grayscale", *coding)
        yield f"{name}_restarts", "clean", "arithmetic coding, restart markers", cjpeg(odd, "-restart", "3B", *coding)
        whole = cjpeg(odd, *coding)
        yield f"{name}_cut", "truncated", "arithmetic coding, cut", whole[: len(whole) * 2 // 3]
        at = whole.index(b"\xff\xda") + 60
        damaged = whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :]
        yield f"{name}_damaged", "corrupt-tolerated", "arithmetic coding, a byte changed", damaged
    small = cjpeg(odd, "-arithmetic")
    scan = segments(small)[0xDA]
    for name, data_from, klass in (("before", 65000, "clean"), ("across", 65500, "corrupt")):
        filler = data_from - scan - 8
        comment = b"\xff\xfe" + (filler - 2).to_bytes(2, "big") + bytes(filler - 4)
        note = f"arithmetic coding {name} the 64 KiB that Pillow reads at a time"
        yield f"arithmetic_{name}_64k", klass, note, small[:2] + comment + small[2:]
    for name, script in SCANS.items():
        for sampling in ("1x1", "2x2"):
            for coding in ((), ("-arithmetic",)):
                label = f"unfinished_{name}_{sampling}" + "".join(f"_{option[1:]}" for option in coding)
                yield label, "clean", "unfinished progressive: smoothed", scripted(odd, script, "-sample", sampling, *coding)
    for sampling in SAMPLINGS:
        name = sampling.replace(",", "_")
        yield f"sampling_{name}", "clean", f"sampling {sampling}", cjpeg(odd, "-sample", sampling)
    for options in ((), ("-grayscale",), ("-restart", "2B")):
        label = "standard_tables" + "".join(f"_{option.strip('-')}" for option in options)
        yield label, "clean", "no Huffman tables: those of the standard", without_tables(cjpeg(odd, *options))
    yield "standard_tables_progressive", "corrupt", "progressive without tables", without_tables(scripted(odd, SCANS["dc_only"]))


def pnms():
    rng = np.random.default_rng(3)
    width, height = 13, 9

    def binary(kind, top, channels):
        wide = top > 255
        values = rng.integers(0, top + 1, width * height * channels)
        return b"%s %d %d\n%d\n" % (kind, width, height, top) + values.astype(">u2" if wide else "u1").tobytes()

    def plain(kind, top, channels, space=b" "):
        values = rng.integers(0, top + 1, width * height * channels)
        return b"%s %d %d\n%d\n" % (kind, width, height, top) + space.join(b"%d" % value for value in values)

    digits = bytes(rng.integers(48, 50, width * height, dtype=np.uint8))
    yield "p1", "clean", "plain bits", b"P1 13 9\n" + digits
    yield "p1_spaced", "clean", "plain bits with space and comments", b"P1 # size\n13 9\n" + digits[:30] + b" #x\n " + b" ".join(digits[i : i + 1] for i in range(30, len(digits)))
    yield "p1_short", "truncated", "plain bits, one missing", b"P1 13 9\n" + digits[:-1]
    yield "p1_wrong", "corrupt", "a plain bit that is 2", b"P1 13 9\n" + digits[:50] + b"2" + digits[51:]
    yield "p4", "clean", "bits", b"P4 13 9\n" + rng.bytes(18)
    for top in (1, 100, 255, 1000, 65535):
        yield f"p5_{top}", "clean", f"gray up to {top}", binary(b"P5", top, 1)
        yield f"p6_{top}", "clean", f"RGB up to {top}", binary(b"P6", top, 3)
        yield f"p2_{top}", "clean", f"plain gray up to {top}", plain(b"P2", top, 1)
        yield f"p3_{top}", "clean", f"plain RGB up to {top}", plain(b"P3", top, 3, b"\t\r\n")
    yield "p6_short", "truncated", "RGB, a byte missing", binary(b"P6", 255, 3)[:-1]
    yield "p6_junk", "tolerated", "RGB, junk behind it", binary(b"P6", 255, 3) + b"junk"
    yield "p2_above", "corrupt", "a plain sample above the maximum", b"P2 2 1 9 9 10"


def tiff(order, height, width, photometric, bits, samples, data, **tags):
    """An uncompressed file of one strip."""
    mark = "<" if order == "II" else ">"
    entries = {256: width, 257: height, 258: [bits] * samples, 259: 1, 262: photometric, 273: 0, 277: samples, 278: height, 279: len(data)}
    entries |= {int(tag[1:]): value for tag, value in tags.items()}

    def encode(start):
        entries[273] = start
        fixed, rest = struct.pack(mark + "H", len(entries)), b""
        at = 8 + 2 + 12 * len(entries) + 4
        for tag, value in sorted(entries.items()):
            values = value if isinstance(value, list) else [value]
            kind, code = (3, "H") if isinstance(value, list) else (4, "I")
            raw = struct.pack(mark + code * len(values), *values)
            head = struct.pack(mark + "HHI", tag, kind, len(values))
            if len(raw) > 4:
                raw, rest = struct.pack(mark + "I", at + len(rest)), rest + raw
            fixed += head + raw.ljust(4, b"\0")
        return order.encode() + struct.pack(mark + "HI", 42, 8) + fixed + bytes(4) + rest

    return encode(len(encode(0))) + data


def tiffs():
    odd = picture(21, 29, 4)
    image = Image.fromarray(odd)
    images = {
        "bits": image.convert("1"), "gray": image.convert("L"), "rgb": image,
        "rgba": Image.fromarray(np.dstack([odd, odd[..., :1]])), "cmyk": image.convert("CMYK"),
        "gray16": Image.fromarray(odd[..., 0].astype(np.uint16) * 3),
    }
    for name, image in images.items():
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            out = io.BytesIO()
            image.save(out, "TIFF", compression=compression)
            label = (compression or "raw").removeprefix("tiff_")
            yield f"tiff_{name}_{label}", "clean", f"TIFF, {name}, {label}", out.getvalue()
    for name in ("gray", "rgb"):
        out = io.BytesIO()
        images[name].save(out, "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
        yield f"tiff_{name}_predictor", "clean", "TIFF, LZW with horizontal differences", out.getvalue()
    for order in ("II", "MM"):
        wide = odd.astype("<u2" if order == "II" else ">u2") * 251
        yield f"tiff_rgb16_{order}", "clean", "TIFF, RGB of 16 bits", tiff(order, 21, 29, 2, 16, 3, wide.tobytes())
        yield f"tiff_inverted_{order}", "clean", "TIFF, gray with 0 for white", tiff(order, 21, 29, 0, 8, 1, odd[..., 0].tobytes())
    yield "tiff_short", "truncated", "TIFF, cut", tiff("II", 21, 29, 2, 8, 3, odd.tobytes())[:-40]


def make(folder):
    cases = []
    for suffix, sources in (("jpg", jpegs), ("pnm", pnms), ("tif", tiffs)):
        for name, klass, note, data in sources():
            out, pixels = case(name, klass, note, data)
            out["file"] = f"files/{name}.{suffix}"
            (folder / "files").mkdir(parents=True, exist_ok=True)
            (folder / out["file"]).write_bytes(data)
            if pixels is not None:
                out["png"] = f"png/{name}.png"
                write_png(folder / out["png"], pixels)
            cases.append(out)
    turbo = features.version("libjpeg_turbo")
    write_json(folder / "cases.json", {"pillow": PIL.__version__, "libjpeg_turbo": turbo, "cases": cases})
    return cases
