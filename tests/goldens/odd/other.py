"""Formats that Pillow opens and forebay does not, one file each, and files of no format."""

import io

from PIL import Image, features

from common import picture

DAMAGED = ()
FORMATS = ("AVIF", "JPEG2000", "ICO", "TGA", "PCX", "DDS", "SGI", "IM", "MSP", "XBM", "QOI", "SPIDER", "DIB", "BLP")


def cases(rng):
    image = Image.fromarray(picture(32, 32, 1))
    for name in FORMATS:
        if name == "AVIF" and not features.check("avif"):
            raise SystemExit("this Pillow has no AVIF: the suite needs the wheel from PyPI")
        mode = {"MSP": "1", "XBM": "1", "SPIDER": "F", "BLP": "P"}.get(name, "RGB")
        source = image.quantize(256) if mode == "P" else image.convert(mode)
        out = io.BytesIO()
        source.save(out, name)
        yield "formats", name.lower(), out.getvalue()
    codestream = io.BytesIO()
    image.save(codestream, "JPEG2000", no_jp2=True)
    yield "formats", "j2k", codestream.getvalue()
    for label, data in (
        ("empty", b""), ("zero", b"\0"), ("zeros", bytes(100)), ("text", b"This is not a picture.\n" * 9), ("noise", rng.bytes(300)), ("html", b"<!DOCTYPE html><html></html>"),
        ("svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'), ("zip", b"PK\3\4" + bytes(60)), ("gzip", b"\x1f\x8b\x08" + bytes(60)), ("riff_wave", b"RIFF\x24\0\0\0WAVEfmt " + bytes(60)),
        ("heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), ("jpeg_xl", b"\xff\x0a" + bytes(60)), ("jpeg_xl_box", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60)),
        ("flif", b"FLIF" + bytes(60)), ("start_of_image", b"\xff\xd8"), ("start_of_image_twice", b"\xff\xd8\xff"), ("png_old", b"\x89PNG\r\n\x1a"), ("gif_old", b"GIF88a" + bytes(30)), ("gif_short", b"GIF8"),
        ("bm", b"BM"), ("tiff_short", b"II*\0"), ("webp_short", b"RIFF\0\0\0\0WEBP"), ("avif_cut", b"\0\0\0\x20ftypavif"), ("jp2_cut", b"\0\0\0\x0cjP  \r\n\x87\n"), ("j2k_cut", b"\xff\x4f\xff\x51"),
    ):
        yield "none", label, data
