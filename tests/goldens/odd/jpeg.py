"""JPEG: samplings, scans, color spaces, markers where none belong, and files that end anywhere."""

import io
import struct
import subprocess
import tempfile

import numpy as np
from PIL import Image

from common import picture
from .coefficients import BASELINE, JFIF, Frame, adobe, file, lossless, segment
from .damage import cuts, number, one_of

DAMAGED = ("sampling", "scans", "restarts", "coded", "color", "arithmetic", "metadata", "multi")
USUAL = [(1, 2, 2, 0), (2, 1, 1, 1), (3, 1, 1, 1)]
EVEN = [(1, 1, 1, 0), (2, 1, 1, 1), (3, 1, 1, 1)]


def factors(*pairs):
    return [(i + 1, h, v, min(i, 1)) for i, (h, v) in enumerate(pairs)]


SAMPLINGS = [factors(*pairs) for pairs in (
    [(1, 1)], [(2, 2)], [(1, 4)], [(3, 1)], [(4, 4)], [(1, 1)] * 3, [(2, 1), (1, 1), (1, 1)], [(1, 2), (1, 1), (1, 1)], [(2, 2), (1, 1), (1, 1)],
    [(4, 1), (1, 1), (1, 1)], [(1, 4), (1, 1), (1, 1)], [(4, 2), (1, 1), (1, 1)], [(2, 4), (1, 1), (1, 1)], [(3, 1), (1, 1), (1, 1)], [(1, 3), (1, 1), (1, 1)],
    [(3, 2), (1, 1), (1, 1)], [(2, 2), (2, 1), (1, 2)], [(1, 1), (2, 2), (1, 1)], [(1, 1), (2, 1), (2, 1)], [(2, 2)] * 3, [(2, 1)] * 3, [(2, 2), (2, 2), (1, 1)],
    [(3, 1), (2, 1), (1, 1)], [(2, 3), (1, 2), (1, 1)], [(4, 1), (3, 1), (1, 1)], [(1, 1)] * 2, [(1, 1)] * 4, [(2, 2), (1, 1), (1, 1), (2, 2)], [(2, 1), (1, 1), (1, 1), (1, 1)],
    [(1, 2), (1, 1), (1, 2), (1, 1)], [(4, 4), (1, 1), (1, 1)], [(0, 1)], [(5, 1)], [(1, 0), (1, 1), (1, 1)],
)]

PROGRESSIVE = {
    "spectral": [((), 0, 0, 0, 0), *(((c,), a, b, 0, 0) for a, b in ((1, 5), (6, 63)) for c in range(3))],
    "refined": [((), 0, 0, 0, 1), *(((c,), 1, 63, 0, 2) for c in range(3)), *(((c,), 1, 63, 2, 1) for c in range(3)), ((), 0, 0, 1, 0),
                *(((c,), 1, 63, 1, 0) for c in range(3))],
    "usual": [((), 0, 0, 0, 1), ((0,), 1, 5, 0, 2), ((2,), 1, 63, 0, 1), ((1,), 1, 63, 0, 1), ((0,), 6, 63, 0, 2), ((0,), 1, 63, 2, 1), ((), 0, 0, 1, 0),
              ((2,), 1, 63, 1, 0), ((1,), 1, 63, 1, 0), ((0,), 1, 63, 1, 0)],
    "apart": [((c,), 0, 0, 0, 0) for c in range(3)] + [((c,), 1, 63, 0, 0) for c in range(3)],
}


def directory(order, *entries, start=8):
    """A directory of EXIF: entries of (tag, type, count, value, or the bytes of it)."""
    mark = "<" if order == b"II" else ">"
    stored, out = b"", struct.pack(mark + "H", len(entries))
    after = start + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        if isinstance(value, bytes) and len(value) > 4:
            value, stored = struct.pack(mark + "I", after + len(stored)), stored + value
        raw = value if isinstance(value, bytes) else struct.pack(mark + ("H2x" if kind == 3 else "I"), value)
        out += struct.pack(mark + "HHI", tag, kind, count) + raw.ljust(4, b"\0")
    return order + struct.pack(mark + "HI", 42, start) + bytes(start - 8) + out + bytes(4) + stored


def metadata():
    """Segments that Pillow looks into, and libjpeg does not."""
    for order in (b"II", b"MM"):
        for kind, count, value in ((5, 1, bytes([0, 0, 0, 72, 0, 0, 0, 1])), (1, 1, b"7"), (1, 2, b"72"), (2, 2, b"7\0"), (2, 1, b"7"), (2, 1, b"\0"), (2, 2, b"x\0"), (2, 3, b"72\0"), (3, 1, 72), (7, 1, b"7"), (7, 0, b"7")):
            for unit in (True, False):
                entries = [(0x011A, kind, count, value), *[(0x0128, 3, 1, 2)] * unit]
                yield f"exif_{order.decode()}_{kind}_{count}_{value if isinstance(value, int) else value.hex()}_{unit}", segment(0xE1, b"Exif\0\0" + directory(order, *entries))
        for pictures in (0, 1, 2, 3):
            for entries in (1, 2):
                for kind in (1, 7, 2, 4):
                    for form in (0, 1):
                        body = (bytes([form, 0, 0, 0]) if order == b"MM" else bytes([0, 0, 0, form])) + bytes(12)
                        count = 16 * entries // (4 if kind == 4 else 1)
                        index = directory(order, (0xB000, 7, 4, b"0100"), (0xB001, 4, 1, pictures), (0xB002, kind, count, body * entries))
                        yield f"index_{order.decode()}_{pictures}_{entries}_{kind}_{form}", segment(0xE2, b"MPF\0" + index)
        index = directory(order, (0xB001, 4, 1, 2), (0xB002, 7, 32, bytes(32)))
        for end in range(0, len(index), 7):
            yield f"index_{order.decode()}_cut_{end}", segment(0xE2, b"MPF\0" + index[:end])


def random_scans(rng, components):
    """Scans that say ever more, and may stop anywhere."""
    low = number(rng, 0, 2)
    scans, known = [((), 0, 0, 0, low)], {}
    for _ in range(number(rng, 0, 7)):
        c = number(rng, 0, components - 1)
        first = number(rng, 1, 63)
        last = number(rng, first, 63) if rng.random() < 0.5 else 63
        levels = {known.get((c, k)) for k in range(first, last + 1)}
        if levels == {None}:
            bits = number(rng, 0, 2)
            scans.append(((c,), first, last, 0, bits))
        elif len(levels) == 1 and (had := levels.pop()) > 0:
            bits = had - 1
            scans.append(((c,), first, last, had, bits))
        else:
            continue
        known |= {(c, k): bits for k in range(first, last + 1)}
        if low and rng.random() < 0.3:
            scans.append(((), 0, 0, low, low - 1))
            low -= 1
    return scans


def markers(data):
    """Offsets of the markers, and of the scans' data."""
    at, found, scans = 2, [0], []
    while at < len(data) - 1:
        if data[at] != 0xFF or data[at + 1] in (0, 0xFF):
            at += 1
            continue
        found.append(at)
        code = data[at + 1]
        at += 2
        if code not in (0xD9, *range(0xD0, 0xD8)):
            at += int.from_bytes(data[at : at + 2], "big")
            if code == 0xDA:
                scans.append(at)
    return found, scans


def without(data, code):
    at = 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == code:
            data, end = data[:at] + data[end:], at
        at = end
    return data


def pillow(pixels, mode="RGB", **options):
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def cjpeg(pixels, *options, script=None):
    source = io.BytesIO()
    Image.fromarray(pixels).save(source, "PPM")
    with tempfile.NamedTemporaryFile("w") as scans:
        scans.write(script or "")
        scans.flush()
        more = ["-scans", scans.name] if script else []
        return subprocess.run(["cjpeg", *options, *more], input=source.getvalue(), capture_output=True, check=True).stdout


def cases(rng):
    for index, components in enumerate(SAMPLINGS):
        for width, height in ((1, 1), (19, 13), (33, 35)):
            name = "_".join(f"{h}x{v}" for _, h, v, _ in components) + f"_{width}x{height}"
            whole = [(c[0], max(c[1], 1), max(c[2], 1), c[3]) for c in components]
            frame = Frame(rng, width, height, whole)
            frame.components = components
            if whole != components:
                out = file(Frame(rng, width, height, factors(*[(1, 1)] * len(components))))
                at = out.index(b"\xff\xc0") + 11
                for c, (_, h, v, _) in enumerate(components):
                    out = out[: at + 3 * c] + bytes([h << 4 | v]) + out[at + 3 * c + 1 :]
                yield "sampling", name, out
                continue
            yield "sampling", name, file(frame)
            yield "sampling", name + "_extended", file(frame, code=0xC1, wide=True, step=300)
            if len(components) > 1:
                yield "sampling", name + "_apart", file(frame, [((c,), 0, 63, 0, 0) for c in range(len(components))])
                yield "sampling", name + "_mixed", file(frame, [((0,), 0, 63, 0, 0), (tuple(range(1, len(components))), 0, 63, 0, 0)])
            scans = [((), 0, 0, 0, 1), *(((c,), 1, 63, 0, 1) for c in range(len(components)))]
            yield "sampling", name + "_progressive", file(frame, scans, 0xC2)
    for name, scans in PROGRESSIVE.items():
        for sampling, components in (("420", USUAL), ("444", EVEN)):
            frame = Frame(rng, 27, 21, components)
            for count in range(1, len(scans) + 1):
                yield "scans", f"{name}_{sampling}_{count}", file(frame, scans[:count], 0xC2)
            for restart in (1, 3):
                yield "scans", f"{name}_{sampling}_restart_{restart}", file(frame, scans, 0xC2, restart)
    for index in range(90):
        components = one_of(rng, [s for s in SAMPLINGS[:22] if len(s) != 2])
        frame = Frame(rng, number(rng, 1, 50), number(rng, 1, 50), components)
        scans = random_scans(rng, len(components))
        yield "unfinished", str(index), file(frame, scans, 0xC2, one_of(rng, (0, 0, 2)))
    for label, scans in (
        ("ac_first", [((0,), 1, 63, 0, 0), ((), 0, 0, 0, 0)]), ("twice", [((), 0, 0, 0, 0)] * 2), ("no_dc", [((0,), 1, 63, 0, 0)]), ("refine_unknown", [((), 0, 0, 0, 0), ((0,), 1, 63, 1, 0)]),
        ("skip_bit", [((), 0, 0, 0, 2), ((), 0, 0, 1, 0)]), ("dc_with_ac", [((0,), 0, 63, 0, 0)]), ("ac_of_all", [((), 0, 0, 0, 0), ((0, 1), 1, 63, 0, 0)]),
        ("reversed", [((), 0, 0, 0, 0), ((0,), 9, 5, 0, 0)]), ("beyond", [((), 0, 0, 0, 0), ((0,), 1, 64, 0, 0)]), ("low_14", [((), 0, 0, 0, 14)]), ("low_13", [((), 0, 0, 0, 13)]),
    ):
        frame = Frame(rng, 17, 9, EVEN)
        try:
            yield "scans", label, file(frame, scans, 0xC2)
        except IndexError:
            base = file(frame, [((), 0, 0, 0, 0), ((0,), 1, 63, 0, 0)], 0xC2)
            at = base.rindex(b"\xff\xda") + 7
            yield "scans", label, base[:at] + bytes([*scans[-1][1:3]]) + base[at + 2 :]
    base = file(Frame(rng, 17, 9, EVEN))
    for first, last, approximation in ((0, 0, 0), (1, 63, 0), (0, 62, 0), (0, 63, 1), (0, 63, 0x10)):
        at = base.rindex(b"\xff\xda") + 11
        yield "scans", f"sequential_{first}_{last}_{approximation}", base[:at] + bytes([first, last, approximation]) + base[at + 3 :]
    many = Frame(rng, 9, 9, factors((1, 1)))
    for count in (199, 200, 201, 260):
        yield "many_scans", str(count), file(many, [((), 0, 0, 0, 0), *[((0,), 1, 63, 0, 0)] * (count - 1)], 0xC2)
    for restart in (1, 2, 5):
        for sampling, components in (("420", USUAL), ("gray", factors((1, 1)))):
            whole = file(Frame(rng, 50, 41, components), restart=restart)
            found, (start,) = markers(whole)
            marks = [at for at in found if at >= start and whole[at + 1] < 0xD8]
            name = f"{sampling}_{restart}"
            yield "restarts", name, whole
            yield "restarts", name + "_no_interval", without(whole, 0xDD)
            for index in range(14):
                at = one_of(rng, marks)
                end = at + 2
                kind = index % 7
                changed = [
                    whole[:at] + whole[end:], whole[:at] + whole[at:end] * 2 + whole[end:], whole[: at + 1] + bytes([0xD0 | number(rng, 0, 7)]) + whole[end:],
                    whole[:at] + b"\xff" * number(rng, 1, 3) + whole[at:], whole[: at - number(rng, 1, 4)] + whole[at:], whole[:at] + rng.bytes(3) + whole[at:],
                    whole[: at + 1] + bytes([one_of(rng, (0, 1, 0xC0, 0xD8, 0xD9, 0xE0, 0xFF))]) + whole[end:],
                ][kind]
                yield "restart_damage", f"{name}_{index}", changed
    stray = [b"\xff" + bytes([0xD0 + i]) for i in (0, 1, 3, 7)] + [b"\xff\xff\0", b"\xff\xff\xff\0", b"\xff\0", b"\xff\1", b"\xff\xd9", b"\xff\xd8", b"\xff\xfe\0\2", b"\xff\xc4\0\2", b"\xff\xff", b"\xff\xff\xd3"]
    sources = {
        "plain": pillow(picture(45, 61, 5), quality=90), "restart": pillow(picture(45, 61, 6), quality=80, restart_marker_blocks=3),
        "progressive": pillow(picture(37, 43, 7), progressive=True), "gray": pillow(picture(40, 50, 8), "L"), "cmyk": pillow(picture(21, 33, 9), "CMYK"),
        "444": pillow(picture(30, 40, 10), subsampling="4:4:4", quality=95),
    }
    for name, data in sources.items():
        yield "coded", name, data
        start = markers(data)[1][0]
        for index in range(2 * len(stray)):
            at = number(rng, start, len(data) - 3)
            yield "stray", f"{name}_{index}", data[:at] + stray[index % len(stray)] + data[at + (index % 3 == 0) :]
    frame_of_one = Frame(rng, 5, 4, factors((1, 1)))
    for kind, count, ids in (("gray", 1, (1,)), ("two", 2, (1, 2)), ("three", 3, (1, 2, 3)), ("letters", 3, b"RGB"), ("zeros", 3, (0, 1, 2)), ("equal", 3, (5, 5, 5)), ("four", 4, (1, 2, 3, 4)), ("inks", 4, b"CMYK")):
        for label, head in (
            ("none", b""), ("jfif", JFIF), *((f"adobe_{t}", adobe(t)) for t in (0, 1, 2, 9)), ("both_0", JFIF + adobe(0)), ("both_1", JFIF + adobe(1)), ("twice", adobe(0) + adobe(2)),
            ("short_adobe", segment(0xEE, b"Adobe\0\x64\0\0")), ("short_jfif", segment(0xE0, b"JFIF\0\1")), ("exif", segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0")),
            ("exif_bad", segment(0xE1, b"Exif\0\0XX")), ("icc", segment(0xE2, b"ICC_PROFILE\0\1\1abc")), ("icc_bad", segment(0xE2, b"ICC_PROFILE\0\1")), ("mpf", segment(0xE2, b"MPF\0II*\0")),
            ("photoshop", segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x10" + bytes(16))), ("photoshop_bad", segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0")), ("avi", segment(0xE0, b"AVI1")),
            ("photoshop_code", segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed")), ("photoshop_two", segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x01a\x008BIM\x04\x04")),
            ("icc_order", segment(0xE2, b"ICC_PROFILE\0\2\2b") + segment(0xE2, b"ICC_PROFILE\0\1\2a")), ("icc_two_bad", segment(0xE2, b"ICC_PROFILE\0\1\2b") + segment(0xE2, b"ICC_PROFILE\0\2")),
        ):
            components = [(id, 1, 1, 0) for id in ids]
            yield "color", f"{kind}_{label}", file(Frame(rng, 11, 9, components), head=head)
    for label, head in metadata():
        yield "metadata", label, file(frame_of_one, head=head)
        if label.startswith("exif_II_1"):
            yield "metadata", label + "_jfif", file(frame_of_one, head=head + segment(0xE0, b"JFIF\0\1\1\1\0\x48\0\x48\0\0"))
    base = sources["plain"]
    found, (start,) = markers(base)
    for code in range(256):
        for label, body in (("bare", b""), ("empty", b"\0\2"), ("zero", b"\0\0"), ("four", b"\0\4ab")):
            if label == "empty" or code in (0, 1, 0xC0, 0xC4, 0xC8, 0xCC, 0xD0, 0xD7, 0xD8, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xF0, 0xFD, 0xFE, 0xFF):
                inserted = bytes([0xFF, code]) + body
                yield "markers", f"{code:02x}_{label}_first", base[:2] + inserted + base[2:]
                yield "markers", f"{code:02x}_{label}_scan", base[: found[-2]] + inserted + base[found[-2] :]
                yield "markers", f"{code:02x}_{label}_last", base[:-2] + inserted + base[-2:]
                yield "markers", f"{code:02x}_{label}_end", base[:-2] + inserted
    for name, data in sources.items():
        for at in markers(data)[0]:
            for end in (at, at + 1, at + 2, at + 3, at + 4):
                yield "cut", f"{name}_{end}", data[:end]
        for end in cuts(data, 12):
            yield "cut", f"{name}_{end}", data[:end]
            yield "cut", f"{name}_{end}_end", data[:end] + b"\xff\xd9"
        for tail in (b"", b"\xff", b"\0\0", b"\0" * 8, b"\xd9", b"\xff\xff\xd9", b"\0\xff\xd9", b"junk\xff\xd9", b"\xff\xd9junk"):
            yield "tail", f"{name}_{tail.hex()}", data[:-2] + tail
        for code, label in ((0xC4, "huffman"), (0xDB, "quantizers"), (0xC0, "frame"), (0xC2, "frame2"), (0xDD, "interval"), (0xEE, "adobe")):
            yield "missing", f"{name}_{label}", without(data, code)
    frame_at = base.index(b"\xff\xc0")
    for precision in (0, 1, 7, 9, 12, 16):
        yield "precision", str(precision), base[: frame_at + 4] + bytes([precision]) + base[frame_at + 5 :]
    for code in (0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF):
        yield "process", f"{code:02x}", base[: frame_at + 1] + bytes([code]) + base[frame_at + 2 :]
    frame = Frame(rng, 17, 9, factors((1, 1)))
    for code in (0xC1, 0xC2):
        scans = BASELINE if code == 0xC1 else [((), 0, 0, 0, 0), ((0,), 1, 63, 0, 0)]
        yield "precision", f"twelve_{code:02x}", file(frame, scans, code, precision=12)
    for at, label in ((5, "height"), (7, "width")):
        for value in (0, 1, 65500, 65501, 65535):
            yield "size", f"{label}_{value}", base[: frame_at + at] + value.to_bytes(2, "big") + base[frame_at + at + 2 :]
    yield "size", "height_by_dnl", base[: frame_at + 5] + b"\0\0" + base[frame_at + 7 : -2] + segment(0xDC, b"\0\x2d") + b"\xff\xd9"
    odd = picture(15, 19, 11)
    for predictor in range(1, 8):
        yield "lossless", f"rgb_{predictor}", lossless(odd, predictor)
        yield "lossless", f"gray_{predictor}", lossless(odd[..., :1], predictor, one_of(rng, (0, 1)), restart=one_of(rng, (0, 4)))
    for label, options in (("rgb_adobe", {"head": adobe(0)}), ("ycc", {"head": JFIF}), ("rgb_ids", {"ids": b"RGB"}), ("shift", {"shift": 2}), ("restart", {"restart": 2})):
        yield "lossless", label, lossless(odd, 4, **options)
    yield "lossless", "sixteen", lossless(odd[..., :1].astype(int) * 257, 1, precision=16)
    yield "lossless", "cut", lossless(odd, 1)[:-200]
    for coding in (("-arithmetic",), ("-arithmetic", "-progressive")):
        name = "progressive_" * (len(coding) > 1)
        for options in (("-sample", "1x1"), ("-sample", "2x2"), ("-grayscale",), ("-restart", "3B"), ("-quality", "95")):
            yield "arithmetic", name + "_".join(option.strip("-") for option in options), cjpeg(picture(37, 41, 12), *coding, *options)
    data = cjpeg(picture(37, 41, 12), "-arithmetic")
    start = markers(data)[1][0]
    for index in range(len(stray) * 2):
        at = number(rng, start, len(data) - 3)
        yield "stray", f"arithmetic_{index}", data[:at] + stray[index % len(stray)] + data[at:]
    for end in cuts(data, 16):
        yield "cut", f"arithmetic_{end}", data[:end]
    images = [Image.fromarray(picture(16, 24, seed)) for seed in (1, 2)]
    out = io.BytesIO()
    images[0].save(out, "MPO", save_all=True, append_images=images[1:])
    yield "multi", "mpo", out.getvalue()
    yield "multi", "mpo_cut", out.getvalue()[:-200]
    yield "multi", "two", sources["gray"] + sources["plain"]
    yield "multi", "thumbnail", sources["gray"][:2] + segment(0xE1, b"Exif\0\0" + sources["gray"]) + sources["gray"][2:]
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype="u1")
    yield "coded", "noise", pillow(noise, quality=100, subsampling="4:4:4")
