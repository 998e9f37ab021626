"""PBM, PGM, PPM, and their relatives."""

from .damage import cuts, number, one_of

DAMAGED = ("plain", "binary", "header")


def samples(rng, kind, width, height, top):
    count = width * height * (3 if kind in "36" else 1)
    if kind == "4":
        return rng.bytes(-(-width // 8) * height)
    if kind == "1":
        return bytes(rng.integers(48, 50, count, dtype="u1"))
    values = rng.integers(0, top + 1, count)
    if kind in "56":
        return values.astype(">u2" if top > 255 else "u1").tobytes()
    return b" ".join(b"%d" % value for value in values)


def pnm(rng, kind, width=9, height=5, top=255, form="P{kind} {width} {height} {top}\n", data=None):
    form = form if kind not in "14" else form.replace(" {top}", "").replace("{top}", "")
    head = form.format(kind=kind, width=width, height=height, top=top).encode("latin-1")
    return head + (samples(rng, kind, width, height, top) if data is None else data)


FORMS = {
    "lines": "P{kind}\n{width}\n{height}\n{top}\n", "tabs": "P{kind}\t{width}\t\t{height}\t{top}\t", "cr": "P{kind}\r{width}\r{height}\r{top}\r",
    "crlf": "P{kind}\r\n{width} {height}\r\n{top}\r\n", "vt": "P{kind}\x0b{width}\x0c{height}\x0b{top}\x0c",
    "comment": "P{kind}\n# made by hand\n{width} {height}\n# top\n{top}\n", "comment_first": "P{kind}#\n{width} {height} {top}\n",
    "comment_inside": "P{kind} {width}#x\n {height} {top}\n", "comment_splits": "P{kind} 0#x\n{width} {height} {top}\n",
    "comment_cr": "P{kind} #a\r{width} {height} {top}\n", "comment_last": "P{kind} {width} {height} {top}#x\n\n",
    "comment_unended": "P{kind} {width} {height} {top} # to the end", "comments": "P{kind} # a # b\n## c\n{width} {height} {top}\n",
    "plus": "P{kind} +{width} +{height} {top}\n", "minus": "P{kind} -{width} {height} {top}\n", "zeros": "P{kind} 000{width} 00{height} 0{top}\n",
    "underscore": "P{kind} 0_{width} {height} {top}\n", "underscore_end": "P{kind} {width}_ {height} {top}\n", "hex": "P{kind} 0x{width} {height} {top}\n",
    "float": "P{kind} {width}.0 {height} {top}\n", "exponent": "P{kind} 1e1 {height} {top}\n", "ten": "P{kind} 000000000{width} {height} {top}\n",
    "eleven": "P{kind} 0000000000{width} {height} {top}\n", "nul": "P{kind}\0{width} {height} {top}\n", "word": "P{kind} nine {height} {top}\n",
    "no_space": "P{kind}{width} {height} {top}\n", "nbsp": "P{kind} {width}\xa0{height} {top}\n", "ff": "P{kind} {width}\xff {height} {top}\n",
    "empty": "P{kind} ", "bare": "P{kind}",
}


def cases(rng):
    for kind in "123456":
        group = "plain" if kind in "123" else "binary"
        for top in (1, 2, 3, 100, 254, 255, 256, 1000, 65534, 65535):
            for width, height in ((1, 1), (8, 3), (17, 6)):
                if kind not in "14" or top == 255:
                    yield group, f"p{kind}_{top}_{width}x{height}", pnm(rng, kind, width, height, top)
        for name, form in FORMS.items():
            yield "header", f"p{kind}_{name}", pnm(rng, kind, form=form)
        for label, width, height, top in (
            ("no_width", 0, 5, 255), ("no_height", 5, 0, 255), ("top_0", 5, 5, 0), ("top_65536", 5, 5, 65536), ("top_huge", 5, 5, 1 << 33),
            ("wide", 1 << 31, 1, 255), ("negative", 5, -5, 255), ("negative_top", 5, 5, -1), ("signed_zero", 5, 5, "-0"),
        ):
            yield "size", f"p{kind}_{label}", pnm(rng, kind, width, height, top, data=rng.bytes(200) if kind in "456" else b"1 " * 99)
        top = 7 if kind in "2356" else 1
        whole = pnm(rng, kind, top=top)
        for end in cuts(whole, 12):
            yield "cut", f"p{kind}_{end}", whole[:end]
        yield "after", f"p{kind}", whole + b"junk"
        if kind in "56":
            yield "above", f"p{kind}_8", pnm(rng, kind, top=7, data=rng.bytes(135))
            yield "above", f"p{kind}_16", pnm(rng, kind, top=999, data=rng.bytes(270))
    digits = samples(rng, "1", 9, 5, 1)
    for label, data in (
        ("spaced", b" ".join(digits[i : i + 1] for i in range(45))), ("comment", digits[:9] + b"# 1 0 1\n" + digits[9:]),
        ("comment_unended", digits[:9] + b"#" + digits[9:]), ("two", digits[:9] + b"2" + digits[10:]), ("two_after", digits + b"2"),
        ("nul", digits[:9] + b"\0" + digits[9:]), ("high", digits[:9] + b"\xa0" + digits[9:]), ("comment_last", digits + b"#"),
    ):
        yield "bits", label, pnm(rng, "1", data=data)
    values = [b"%d" % value for value in rng.integers(0, 8, 45)]
    for label, data in (
        ("plus", b" +".join(values)), ("minus_zero", b"-0 " + b" ".join(values[1:])), ("minus", b"-1 " + b" ".join(values[1:])),
        ("zeros", b" 000".join(values)), ("underscore", b"0_1 " + b" ".join(values[1:])), ("float", b"1.0 " + b" ".join(values[1:])),
        ("above", b"8 " + b" ".join(values[1:])), ("above_last", b" ".join([*values[1:], b"8"])), ("letter", b" ".join([*values, b"x"])),
        ("letter_last", b" ".join([*values[1:], b"x"])), ("comment", b" ".join(values[:9]) + b"#9 9\n " + b" ".join(values[9:])),
        ("comment_splits", b" ".join(values[:9]) + b"#9 9\n" + b" ".join(values[9:])), ("comment_end", b" ".join(values) + b"#"),
        ("long", b"00000000001 " + b" ".join(values[1:])), ("long_after", b" ".join(values) + b" " + b"1" * 30), ("nul", b"\0 ".join(values)),
        ("ten", b"0000000001 " + b" ".join(values[1:])), ("vt", b"\x0b".join(values)), ("separators", b"\x1c".join(values)),
    ):
        yield "numbers", f"p2_{label}", pnm(rng, "2", top=7, data=data)
    for index in range(30):
        kind, top = one_of(rng, "2356"), number(rng, 1, one_of(rng, (9, 300, 65535)))
        yield "tops", str(index), pnm(rng, kind, number(rng, 1, 14), number(rng, 1, 9), top)
    for magic, rest in (
        ("P0", "CMYK"), ("PyP", ""), ("PyRGBA", ""), ("PyCMYK", ""), ("Pf", ""), ("PF", ""), ("P7", ""), ("Py", ""), ("P0CMYK", ""), ("p6", ""),
    ):
        scale = " -1.0" if magic in ("Pf", "PF") else "" if magic == "P7" else " 255"
        yield "relatives", f"{magic}_{rest}", f"{magic}{rest} 3 2{scale}\n".encode() + rng.bytes(120)
    yield "relatives", "p7_arbitrary", b"P7\nWIDTH 3\nHEIGHT 2\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + rng.bytes(18)
