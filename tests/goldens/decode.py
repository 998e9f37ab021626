"""01_decode: JPEG bytes to RGB, by `Image.open(file).convert("RGB")`."""

import io

import numpy as np
from PIL import Image, ImageFile, features
import PIL

from common import picture, sha256, smooth, write_json, write_png


def jpeg(pixels, mode="RGB", **options):
    options = {"quality": 85, "subsampling": "4:2:0"} | options
    image = Image.fromarray(pixels)
    if mode != "RGB":
        image = image.convert(mode)
        options.pop("subsampling")
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def segments(data):
    """The marker segments before the scan: {marker: offset of its FF byte}."""
    at, found = 2, {}
    while data[at + 1] != 0xDA:
        found.setdefault(data[at + 1], at)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    found[0xDA] = at
    return found


def patched(data, at, new):
    return data[:at] + bytes(new) + data[at + len(new) :]


def without(data, marker):
    at = segments(data)[marker]
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def as_440(height, width, seed):
    """A 4:4:0 file. Pillow cannot write one, so that a 4:2:2 file of rearranged blocks gets another frame header:
    both have two luma blocks and one block of each chroma component per MCU. Chroma is arbitrary."""
    rows, columns = -(-height // 16), -(-width // 8)
    tall = picture(rows * 16, columns * 8, seed)
    blocks = tall.reshape(rows, 2, 8, columns, 8, 3).transpose(0, 2, 3, 1, 4, 5)
    data = jpeg(np.ascontiguousarray(blocks).reshape(rows * 8, columns * 16, 3), subsampling="4:2:2")
    frame = segments(data)[0xC0]
    data = patched(data, frame + 5, height.to_bytes(2, "big") + width.to_bytes(2, "big"))
    assert data[frame + 11] == 0x21
    return patched(data, frame + 11, [0x12])


def damaged(data, count, seed):
    """Damages the scan by the first seed whose damage Pillow tolerates and that changes pixels."""
    start = segments(data)[0xDA] + 14
    whole = decode(data)[1]
    for attempt in range(1000):
        rng = np.random.default_rng([seed, attempt])
        out = bytearray(data)
        for at in rng.integers(start, len(data) - 2, count):
            out[at] = rng.integers(0, 255)  # not FF, which begins a marker
        out = bytes(out)
        pixels = decode(out)[1]
        if pixels is not None and (pixels != whole).any():
            return out
    raise AssertionError("no seed gives damage that Pillow tolerates")


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def png(pixels, palette=False):
    image = Image.fromarray(pixels)
    out = io.BytesIO()
    (image.quantize(32) if palette else image).save(out, "PNG")
    return out.getvalue()


def sources():
    """Returns (name, class, note, bytes) of every case."""
    odd = picture(45, 61, 1)
    base, prog = jpeg(odd), jpeg(odd, progressive=True)
    for name, sampling in (("444", "4:4:4"), ("422", "4:2:2"), ("420", "4:2:0")):
        yield f"base_{name}_odd", "clean", f"baseline {sampling}, odd size", jpeg(odd, subsampling=sampling)
        yield f"base_{name}_even", "clean", f"baseline {sampling}, whole MCUs", jpeg(picture(48, 64, 2), subsampling=sampling)
        yield f"prog_{name}", "clean", f"progressive {sampling}, odd size", jpeg(odd, subsampling=sampling, progressive=True)
    yield "base_440_odd", "clean", "baseline 4:4:0, odd size; arbitrary chroma", as_440(75, 41, 3)
    yield "base_440_even", "clean", "baseline 4:4:0, whole MCUs; arbitrary chroma", as_440(64, 48, 4)
    yield "base_gray_odd", "clean", "baseline grayscale", jpeg(odd, "L")
    yield "prog_gray", "clean", "progressive grayscale", jpeg(odd, "L", progressive=True)
    yield "wide_420", "clean", "wider than one row of vectors", jpeg(picture(37, 203, 5))
    yield "large_444", "clean", "room for crops", jpeg(picture(97, 131, 6), subsampling="4:4:4")
    yield "large_420", "clean", "room for crops, upright", jpeg(picture(131, 97, 7))
    yield "huge_420", "clean", "larger; the picture is not stored, only its digest and a crop", jpeg(smooth(601, 803, 8), quality=40)
    yield "q10_420", "clean", "quality 10", jpeg(odd, quality=10)
    yield "q100_444", "clean", "quality 100", jpeg(odd, quality=100, subsampling="4:4:4")
    yield "optimized_420", "clean", "optimized Huffman tables", jpeg(odd, optimize=True)
    yield "rst_blocks1", "clean", "restart marker after every MCU", jpeg(odd, restart_marker_blocks=1)
    yield "rst_blocks4", "clean", "restart marker every 4 MCUs", jpeg(odd, restart_marker_blocks=4)
    yield "rst_rows1", "clean", "restart marker every MCU row", jpeg(odd, restart_marker_rows=1, subsampling="4:4:4")
    yield "rst_gray", "clean", "grayscale with restart markers", jpeg(odd, "L", restart_marker_blocks=3)
    yield "rst_prog", "clean", "progressive with restart markers", jpeg(odd, progressive=True, restart_marker_blocks=4)
    yield "rgb_coded", "clean", "RGB components, not YCbCr", jpeg(odd, keep_rgb=True, subsampling="4:4:4")
    for height, width in ((1, 1), (5, 7), (8, 8), (1, 17), (33, 1), (16, 16), (17, 3)):
        yield f"size_{width}x{height}", "clean", f"{width}x{height} 4:2:0", jpeg(picture(height, width, 9))
    for orientation in (3, 6):
        yield f"exif_{orientation}", "clean", f"EXIF orientation {orientation}: not applied", jpeg(odd, exif=exif(orientation))
    yield "icc", "clean", "an ICC profile: ignored", jpeg(odd, icc_profile=bytes(range(200)))
    yield "comment", "clean", "a comment", jpeg(odd, comment=b"a comment")
    cmyk = jpeg(odd, "CMYK")
    yield "cmyk_adobe", "clean", "CMYK with Adobe's marker: stored inverted", cmyk
    yield "cmyk_noadobe", "clean", "CMYK without Adobe's marker", without(cmyk, 0xEE)
    yield "ycck_adobe", "clean", "YCCK: Adobe's marker patched to transform 2, colors arbitrary", patched(cmyk, segments(cmyk)[0xEE] + 15, [2])
    yield "png_named_jpg", "other-format", "a PNG named .jpg: Pillow goes by content", png(picture(24, 32, 10))
    yield "png_palette_named_jpg", "other-format", "a palette PNG named .jpg", png(picture(24, 32, 11), palette=True)
    yield "trailing_junk", "tolerated", "junk after EOI", base + b"junk" * 50
    yield "missing_eoi", "truncated", "EOI cut off", base[:-2]
    for percent in (25, 60, 95):
        yield f"trunc_{percent}", "truncated", f"baseline cut to {percent} %", base[: len(base) * percent // 100]
    yield "trunc_prog_50", "truncated", "progressive cut to 50 %", prog[: len(prog) // 2]
    yield "trunc_rst", "truncated", "cut before the last restart interval", jpeg(odd, restart_marker_blocks=4)[:-40]
    yield "trunc_header", "truncated", "cut inside the header", base[:150]
    yield "empty", "corrupt", "no bytes", b""
    yield "text", "corrupt", "text", b"This is not a picture.\n" * 9
    frame = segments(base)[0xC0]
    yield "zero_width", "corrupt", "width 0", patched(base, frame + 7, [0, 0])
    yield "zero_height", "corrupt", "height 0 and no DNL marker", patched(base, frame + 5, [0, 0])
    yield "bad_huffman", "corrupt", "impossible Huffman table", patched(base, segments(base)[0xC4] + 5, [255] * 16)
    yield "sof3_lossless", "corrupt", "frame header patched to lossless", patched(base, frame + 1, [0xC3])
    yield "corrupt_scan_1", "corrupt-tolerated", "1 byte of the scan changed", damaged(base, 1, 1)
    yield "corrupt_scan_8", "corrupt-tolerated", "8 bytes of the scan changed", damaged(base, 8, 2)
    yield "corrupt_rst", "corrupt-tolerated", "3 bytes changed, with restart markers", damaged(jpeg(odd, restart_marker_blocks=4), 3, 3)


def decode(data, truncated_too=False):
    """Returns (image, pixels) or (error, None), as timm's dataset reads the file."""
    ImageFile.LOAD_TRUNCATED_IMAGES = truncated_too
    try:
        image = Image.open(io.BytesIO(data))
        return image, np.asarray(image.convert("RGB"))
    except Exception as error:  # whatever Pillow raises is the recorded outcome
        return error, None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def case(name, klass, note, data):
    out = {"name": name, "file": f"jpeg/{name}.jpg", "bytes": len(data), "note": note, "klass": klass}
    image, pixels = decode(data)
    out["expect"] = "error" if pixels is None else "ok"
    assert (pixels is None) == (klass in ("truncated", "corrupt")), f"{name}: {image}"
    if pixels is None:
        kind = type(image)
        forced = decode(data, truncated_too=True)[1]
        text = str(image) if "identify" not in str(image) else "cannot identify image file '<file>'"
        given = "error" if forced is None else {
            "width": forced.shape[1], "height": forced.shape[0], "rgb_sha256": sha256(forced)}
        return out | {"error_type": f"{kind.__module__}.{kind.__name__}", "error": text,
                      "load_truncated_images_would_give": given}, None
    out |= {
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "pil_mode": image.mode,
        "pil_format": image.format,
        "exif_orientation": image.getexif().get(0x0112),
        "rgb_sha256": sha256(pixels),
        "rgb_mean": pixels.reshape(-1, 3).mean(0).tolist(),
    }
    return out, pixels


def make(folder):
    cases = []
    for name, klass, note, data in sources():
        out, pixels = case(name, klass, note, data)
        path = folder / out["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if name.startswith("huge"):
            left, top, right, bottom = 400, 300, 464, 364
            out["extra"] = {"crop_box_xyxy": [left, top, right, bottom], "png": f"png/{name}_crop.png"}
            write_png(folder / out["extra"]["png"], pixels[top:bottom, left:right])
        elif pixels is not None:
            out["png"] = f"png/{name}.png"
            write_png(folder / out["png"], pixels)
        cases.append(out)
    turbo = features.version("libjpeg_turbo")
    write_json(folder / "cases.json", {"pillow": PIL.__version__, "libjpeg_turbo": turbo, "cases": cases})
    return cases
