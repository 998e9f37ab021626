"""WebP: pixels as Pillow codes them, in files whose chunks are put together by hand."""

import io
import struct

import numpy as np
from PIL import Image

from common import picture, smooth
from .damage import change, cuts, number, one_of

DAMAGED = ("plain", "animation", "alpha")
ANIMATION, ALPHA, ICC, EXIF, XMP = 2, 16, 32, 8, 4


def chunk(name, data, pad=b"\0"):
    return name + struct.pack("<I", len(data)) + data + pad * (len(data) % 2)


def riff(*chunks, size=None, after=b"", kind=b"WEBP"):
    body = kind + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body + after


def u24(value):
    return struct.pack("<I", value & 0xFFFFFF)[:3]


def extended(flags, width, height, reserved=bytes(3)):
    return chunk(b"VP8X", bytes([flags]) + reserved + u24(width - 1) + u24(height - 1))


def frame(left, top, width, height, *chunks, flags=0, duration=50):
    head = u24(left // 2) + u24(top // 2) + u24(width - 1) + u24(height - 1) + u24(duration) + bytes([flags])
    return chunk(b"ANMF", head + b"".join(chunks))


def control(color=0, loops=0):
    return chunk(b"ANIM", struct.pack("<IH", color, loops))


def coded(pixels, **options):
    """The chunks of an image that Pillow writes."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", **({"method": 4, "exact": True} | options))
    data, at, found = out.getvalue(), 12, {}
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        found[data[at : at + 4]] = data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    return found


def translucent(rng, height, width, seed):
    alpha = np.where(rng.random((height, width)) < 0.5, 255, rng.integers(0, 256, (height, width))).astype("u1")
    return np.dstack([picture(height, width, seed), alpha])


def plain(rng):
    """(name, chunk) of single images."""
    for seed, (height, width) in enumerate(((1, 1), (7, 9), (16, 16), (17, 33), (40, 24))):
        for quality in (5, 60, 100):
            yield f"lossy_{width}x{height}_q{quality}", coded(picture(height, width, seed), quality=quality)
        yield f"lossless_{width}x{height}", coded(picture(height, width, seed), lossless=True)
        yield f"lossless_{width}x{height}_smooth", coded(smooth(height, width, seed), lossless=True, quality=100)
        gray = np.repeat(picture(height, width, seed)[..., :1], 3, 2)
        yield f"lossless_{width}x{height}_gray", coded(gray, lossless=True)
    for colors in (2, 3, 4, 16, 17, 200):
        table = rng.integers(0, 256, (colors, 3)).astype("u1")
        yield f"lossless_palette_{colors}", coded(table[rng.integers(0, colors, (13, 21))], lossless=True)
    for method in (0, 2, 6):
        yield f"lossy_method_{method}", coded(picture(33, 47, 9), quality=70, method=method)
        yield f"lossless_method_{method}", coded(picture(21, 27, 9), lossless=True, method=method)


def cases(rng):
    images = dict(plain(rng))
    for name, found in images.items():
        (kind, data), = found.items()
        yield "plain", name, riff(chunk(kind, data))
    lossy, lossless = (images[f"{kind}_9x7{end}"] for kind, end in (("lossy", "_q60"), ("lossless", "")))
    lossy, lossless = chunk(b"VP8 ", lossy[b"VP8 "]), chunk(b"VP8L", lossless[b"VP8L"])
    rgba = [translucent(rng, height, width, 3) for height, width in ((7, 9), (19, 23), (33, 40))]
    alphas = {}
    for pixels in rgba:
        height, width = pixels.shape[:2]
        for quality in (0, 50, 100):
            found = coded(pixels, quality=60, alpha_quality=quality)
            parts = chunk(b"ALPH", found[b"ALPH"]), chunk(b"VP8 ", found[b"VP8 "])
            alphas[width] = parts
            yield "alpha", f"{width}x{height}_q{quality}", riff(extended(ALPHA, width, height), *parts)
        found = coded(pixels, lossless=True)
        yield "alpha", f"{width}x{height}_lossless", riff(*[chunk(kind, data) for kind, data in found.items()])
        for method in range(4):
            for filtered in range(4):
                for level in range(3):
                    size = width * height if rng.random() < 0.8 else number(rng, 0, width * height + 3)
                    raw = chunk(b"ALPH", bytes([method | filtered << 2 | level << 4]) + rng.bytes(size))
                    yield "alpha", f"{width}_m{method}_f{filtered}_l{level}", riff(extended(ALPHA, width, height), raw, parts[1])
    alpha, with_alpha = alphas[9]
    head = extended(ALPHA, 9, 7)
    for label, chunks in (
        ("no_flag", [extended(0, 9, 7), alpha, with_alpha]), ("no_chunk", [head, with_alpha]), ("no_vp8x", [alpha, with_alpha]),
        ("after", [head, with_alpha, alpha]), ("twice", [head, alpha, alpha, with_alpha]), ("lossless", [head, alpha, lossless]),
        ("alone", [head, alpha]), ("apart", [head, alpha, chunk(b"abcd", b"x"), with_alpha]), ("empty", [head, chunk(b"ALPH", b""), with_alpha]),
        ("reserved", [head, chunk(b"ALPH", b"\xc0" + bytes(63)), with_alpha]),
    ):
        yield "alpha", label, riff(*chunks)
    icc, exif, xmp = chunk(b"ICCP", b"profile"), chunk(b"EXIF", b"II*\0" + bytes(6)), chunk(b"XMP ", b"<x/>")
    for image_name, image in (("lossy", lossy), ("lossless", lossless)):
        for flags in (0, 1, EXIF, XMP, ICC, ALPHA, ICC | EXIF | XMP, 64, 128, 255, ANIMATION):
            yield "flags", f"{image_name}_{flags}", riff(extended(flags, 9, 7), image)
            yield "flags", f"{image_name}_{flags}_chunks", riff(extended(flags, 9, 7), icc, image, exif, xmp)
        head = extended(0, 9, 7)
        for label, chunks in (
            ("reserved", [extended(0, 9, 7, b"\1\2\3"), image]), ("smaller", [extended(0, 8, 7), image]), ("larger", [extended(0, 10, 7), image]),
            ("huge", [extended(0, 1 << 24, 1 << 24), image]), ("limit", [extended(0, 1 << 16, (1 << 16) - 1), image]), ("head_only", [head]),
            ("two_images", [head, image, image]), ("two_heads", [head, head, image]), ("image_first", [image, head]), ("unknown_first", [chunk(b"abcd", b""), image]),
            ("unknown", [head, chunk(b"abcd", b"xyz"), image]), ("unknown_after", [image, chunk(b"abcd", b"xyz")]), ("two_plain", [image, image]),
            ("short_head", [chunk(b"VP8X", bytes(9)), image]), ("long_head", [chunk(b"VP8X", extended(0, 9, 7)[8:] + b"\0\0"), image]),
            ("control", [head, control(), image]), ("frame", [head, frame(0, 0, 9, 7, image)]), ("nothing", []), ("empty_image", [chunk(image[:4], b"")]),
            ("other_name", [chunk(b"VP8 " if image_name == "lossless" else b"VP8L", image[8:])]), ("padded", [chunk(image[:4], image[8:] + b"\0\0\0\0")]),
        ):
            yield "chunks", f"{image_name}_{label}", riff(*chunks)
        whole = riff(image)
        for change_of in (-9, -4, -3, -2, -1, 1, 2, 3, 8):
            yield "size", f"{image_name}_{change_of}", riff(image, size=len(whole) - 8 + change_of)
            yield "size", f"{image_name}_{change_of}_after", riff(image, size=len(whole) - 8 + change_of, after=b"12345678")
            length = int.from_bytes(image[4:8], "little") + change_of
            yield "size", f"{image_name}_chunk_{change_of}", riff(image[:4] + struct.pack("<I", max(length, 0)) + image[8:])
        for size in (0, 4, 11, 12, 13, 0xFFFFFFF6, 0xFFFFFFFF):
            yield "size", f"{image_name}_of_{size}", riff(image, size=size)
        yield "size", f"{image_name}_after", riff(image, after=b"junk")
        yield "size", f"{image_name}_kind", riff(image, kind=b"WEBQ")
        for end in cuts(whole, 30):
            yield "cut", f"{image_name}_{end}", whole[:end]
            if end > 40:
                data = image[8 : end - 12]
                yield "cut", f"{image_name}_{end}_resized", riff(chunk(image[:4], data))
        for byte in range(10):
            data = bytearray(image[8:])
            data[byte] ^= 1 << number(rng, 0, 7)
            yield "header", f"{image_name}_{byte}", riff(chunk(image[:4], bytes(data)))
        for index in range(60):
            data = bytearray(image[8:])
            for _ in range(number(rng, 1, 3)):
                change(data, rng)
            yield "stream", f"{image_name}_{index}", riff(chunk(image[:4], bytes(data)))
    animated = extended(ANIMATION, 20, 16)
    part = frame(4, 2, 9, 7, lossy)
    for label, chunks in (
        ("plain", [animated, control(), part]), ("two", [animated, control(), part, frame(0, 0, 9, 7, lossless)]), ("alpha", [animated, control(), frame(6, 4, 9, 7, alpha, with_alpha)]),
        ("background", [extended(ANIMATION | ALPHA, 20, 16), control(0x80402010), part]), ("blend", [animated, control(0xFFFFFFFF), frame(4, 2, 9, 7, alpha, with_alpha, flags=2)]),
        ("dispose", [animated, control(), frame(4, 2, 9, 7, lossless, flags=1), part]), ("flags", [animated, control(), frame(4, 2, 9, 7, lossy, flags=0xFC)]),
        ("no_control", [animated, part]), ("control_after", [animated, part, control()]), ("short_control", [animated, chunk(b"ANIM", b"12345"), part]),
        ("shorter_control", [animated, chunk(b"ANIM", b"1234"), part]), ("outside", [animated, control(), frame(12, 10, 9, 7, lossy)]), ("edge", [animated, control(), frame(10, 8, 9, 7, lossy)]),
        ("wrong_size", [animated, control(), frame(4, 2, 8, 7, lossy)]), ("short_frame", [animated, control(), chunk(b"ANMF", bytes(15))]),
        ("empty_frame", [animated, control(), frame(0, 0, 9, 7)]), ("empty_then_full", [animated, control(), frame(0, 0, 9, 7), part]), ("no_frame", [animated, control()]),
        ("no_flag", [extended(0, 20, 16), control(), part]), ("image_after", [animated, control(), part, lossy]), ("image_before", [animated, lossy, control(), part]),
        ("unknown_in", [animated, control(), frame(4, 2, 9, 7, lossy, chunk(b"abcd", b"xyz"))]), ("unknown_in_first", [animated, control(), frame(4, 2, 9, 7, chunk(b"abcd", b"xyz"), lossy)]),
        ("two_in", [animated, control(), frame(4, 2, 9, 7, lossy, lossy)]), ("odd", [animated, control(), frame(5, 3, 9, 7, lossy)]), ("exif", [extended(ANIMATION | EXIF, 20, 16), control(), part, exif]),
        ("duration", [animated, control(), frame(4, 2, 9, 7, lossy, duration=0xFFFFFF)]), ("two_controls", [animated, control(), control(), part]),
        ("damaged_second", [animated, control(), part, frame(0, 0, 9, 7, lossy[:40].ljust(len(lossy), b"\0"))]), ("damaged_first", [animated, control(), frame(0, 0, 9, 7, lossy[:40].ljust(len(lossy), b"\0")), part]),
    ):
        yield "animation", label, riff(*chunks)
    for index in range(24):
        frames = [frame(number(rng, 0, 11), number(rng, 0, 9), 9, 7, one_of(rng, (lossy, lossless)), flags=number(rng, 0, 3)) for _ in range(number(rng, 1, 3))]
        flags = ANIMATION | one_of(rng, (0, ALPHA))
        yield "animation", f"random_{index}", riff(extended(flags, 20, 16), control(number(rng, 0, (1 << 32) - 1)), *frames)
    whole = riff(animated, control(), part, frame(0, 0, 9, 7, lossless))
    for end in cuts(whole, 24):
        yield "cut", f"animation_{end}", whole[:end]
        yield "cut", f"animation_{end}_resized", b"RIFF" + struct.pack("<I", max(end - 8, 0)) + whole[8:end]
