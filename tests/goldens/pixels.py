"""02_crop, 03_randaug, 04_chain: Pillow and timm on given pixels with given arguments."""

import itertools
import math

import numpy as np
import timm.data.auto_augment as aa
from PIL import Image, ImageOps
from safetensors.numpy import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torchvision.transforms import InterpolationMode
import torchvision.transforms.functional as F

from common import FILL, picture, sha256, write_json, write_png

TORCHVISION = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
PIL_FILTER = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
ENHANCE = ("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing")
INTEGER = ("PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd")
ORDER = list(aa._RAND_INCREASING_TRANSFORMS)


def vertical_first(height, width, out_height, out_width):
    """Whether Pillow 13, unlike Pillow 12, runs the vertical pass first."""
    return height - out_height > max(0, 2 * (width - out_width))


def argument(op, magnitude, sign):
    """The argument that timm's function gets at a magnitude, for a given sign."""
    if aa.LEVEL_TO_ARG[op] is None:
        return None
    coin, aa.random.random = aa.random.random, lambda: 1.0 if sign < 0 else 0.0
    try:
        return aa.LEVEL_TO_ARG[op](magnitude, {"translate_pct": 0.45})[0]
    finally:
        aa.random.random = coin


def apply_op(image, op, arg, interpolation):
    args = () if arg is None else (arg,)
    resample = PIL_FILTER[interpolation or "bicubic"]
    return aa.NAME_TO_OP[op](image, *args, fillcolor=FILL, resample=resample)


def crop(folder):
    cases, evals = [], []
    sources = folder.parent / "01_decode" / "png"

    def box(name, i, j, h, w, out_h, out_w, interpolation, note):
        image = Image.open(sources / f"{name}.png")
        out = F.resized_crop(image, i, j, h, w, (out_h, out_w), TORCHVISION[interpolation])
        file = f"out/{len(cases):03}_{interpolation}_{out_h}x{out_w}.png"
        write_png(folder / file, out)
        cases.append({
            "input": f"../01_decode/png/{name}.png", "i": i, "j": j, "h": h, "w": w, "out_h": out_h,
            "out_w": out_w, "interpolation": interpolation, "output": file, "note": note,
            "pillow13_vertical_first": vertical_first(h, w, out_h, out_w)})

    rng = np.random.default_rng(20)
    for name, interpolation, side in itertools.product(
        ("large_444", "large_420", "wide_420"), ("bilinear", "bicubic"), (32, 48)
    ):
        width, height = Image.open(sources / f"{name}.png").size
        h, w = int(rng.integers(height // 3, height)), int(rng.integers(width // 3, width))
        i, j = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        box(name, i, j, h, w, side, side, interpolation, "random box")
    for interpolation in ("bilinear", "bicubic"):
        box("large_420", 0, 0, 131, 97, 48, 48, interpolation, "whole image")
        box("large_444", 3, 7, 81, 101, 29, 37, interpolation, "odd output")
        box("large_444", 10, 20, 60, 1, 31, 23, interpolation, "one pixel wide")
        box("large_444", 10, 20, 1, 60, 31, 23, interpolation, "one pixel high")
        box("large_444", 10, 20, 1, 1, 9, 11, interpolation, "one pixel")
        box("large_444", 4, 6, 40, 48, 32, 48, interpolation, "width unchanged: only the vertical pass runs")
        box("large_444", 4, 6, 48, 40, 48, 32, interpolation, "height unchanged: only the horizontal pass runs")
        box("large_444", 4, 6, 32, 32, 32, 32, interpolation, "nothing to resize")
        box("large_444", 77, 111, 20, 20, 48, 48, interpolation, "up-scale of a corner")
        box("large_444", 0, 0, 97, 131, 5, 7, interpolation, "strong down-scale: large support")
        box("size_7x5", 0, 0, 5, 7, 32, 32, interpolation, "tiny source")

    def whole(name, pct, size, interpolation):
        image = Image.open(sources / f"{name}.png")
        transform = create_transform(size, is_training=False, interpolation=interpolation,
                                     crop_pct=pct, mean=None, std=None, use_prefetcher=True)
        out = np.ascontiguousarray(np.asarray(transform(image)).transpose(1, 2, 0))
        short = math.floor(size / pct)
        width, height = image.size
        resized = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        file = f"eval/{len(evals):03}_{size}_{short}.png"
        write_png(folder / file, out)
        evals.append({
            "input": f"../01_decode/png/{name}.png", "crop_pct": pct, "size": size, "resize_short": short,
            "resized_w": resized[0], "resized_h": resized[1],
            "crop_top": round((resized[1] - size) / 2), "crop_left": round((resized[0] - size) / 2),
            "interpolation": interpolation, "output": file, "by": "timm create_transform",
            "pillow13_vertical_first": vertical_first(height, width, resized[1], resized[0])})

    for name in ("large_444", "large_420", "base_420_odd", "size_7x5", "size_1x33", "size_16x16"):
        whole(name, 0.95, 32, "bicubic")
    whole("large_444", 0.875, 40, "bilinear")
    whole("large_420", 0.95, 57, "bicubic")
    whole("size_7x5", 0.95, 224, "bicubic")
    write_json(folder / "cases.json", {"rrc": cases, "eval": evals})

    levels = np.arange(256, dtype=np.float32)[None, :]
    mean = np.array(IMAGENET_DEFAULT_MEAN, dtype=np.float32)[:, None]
    std = np.array(IMAGENET_DEFAULT_STD, dtype=np.float32)[:, None]
    prefetcher_mean = np.array([x * 255 for x in IMAGENET_DEFAULT_MEAN], dtype=np.float32)[:, None]
    prefetcher_std = np.array([x * 255 for x in IMAGENET_DEFAULT_STD], dtype=np.float32)[:, None]
    save_file({"prefetcher": (levels - prefetcher_mean) / prefetcher_std,
               "totensor_normalize": (levels / np.float32(255) - mean) / std},
              folder / "normalize_lut.safetensors")


def op_inputs():
    rng = np.random.default_rng(30)
    y, x = np.mgrid[0:23, 0:29]
    return {
        "odd29x23": picture(23, 29, 31),
        "sq24": picture(24, 24, 32),
        "grad29x23": np.stack([x * 8, y * 11, (x + y) * 4], -1).astype(np.uint8),
        "const": np.full((9, 11, 3), (17, 128, 250), dtype=np.uint8),
        "lowcon": rng.integers(100, 120, (12, 14, 3), dtype=np.uint8),
        "twoval": rng.choice(np.array([3, 200], dtype=np.uint8), (10, 13, 3)),
        "small5x3": rng.integers(0, 256, (3, 5, 3), dtype=np.uint8),
        "px1": np.array([[[40, 90, 210]]], dtype=np.uint8),
    }


def randaug(folder):
    cases = []
    inputs = op_inputs()
    for name, pixels in inputs.items():
        write_png(folder / f"in/{name}.png", pixels)

    def run(name, op, magnitude, sign, arg, interpolation, tag):
        image = Image.fromarray(inputs[name])
        out = apply_op(image, op, arg, interpolation)
        file = f"out/{name}__{op}_{tag}_{interpolation or 'bicubic'}.png"
        write_png(folder / file, out)
        cases.append({
            "op": op, "magnitude": magnitude, "sign": sign, "arg": arg, "interpolation": interpolation,
            "input": f"in/{name}.png", "output": file,
            "identical_to_input": bool((np.asarray(out) == inputs[name]).all())})

    for name, op in itertools.product(inputs, ORDER):
        magnitudes = (0, 3, 7, 10) if name == "odd29x23" else (7.4,)
        if aa.LEVEL_TO_ARG[op] is None:
            run(name, op, None, 1, None, None, "xp")
            continue
        signs = (1, -1) if op in GEOMETRIC + ENHANCE else (1,)
        filters = ("bilinear", "bicubic") if op in GEOMETRIC else (None,)
        for magnitude, sign, interpolation in itertools.product(magnitudes, signs, filters):
            if magnitude == 0 and sign < 0:
                continue
            arg = argument(op, magnitude, sign)
            run(name, op, magnitude, sign, arg, interpolation, f"{magnitude}{'p' if sign > 0 else 'm'}")
    special = [("Rotate", a) for a in (0.0, 90.0, 180.0, 270.0, 45.0, -360.0)]
    special += [("PosterizeIncreasing", 8), ("SolarizeIncreasing", 0), ("SolarizeIncreasing", 256), ("SolarizeAdd", 128)]
    special += [(op, f) for op in ENHANCE for f in (0.0, 1.0, 3.0)]
    for name, (op, arg) in itertools.product(("odd29x23", "sq24"), special):
        if name == "sq24" and op != "Rotate":
            continue
        interpolation = "bicubic" if op == "Rotate" else None
        run(name, op, None, None, arg, interpolation, f"arg{arg:.4f}")
    write_json(folder / "cases.json", {"fill": list(FILL), "cases": cases})

    halves = [m / 2 for m in range(21)]
    table = {}
    for op in ORDER:
        signed = op in GEOMETRIC + ENHANCE
        table[op] = {"signed": signed, "levels": halves}
        if aa.LEVEL_TO_ARG[op] is None:
            table[op]["arg"] = None
            continue
        table[op]["arg_positive"] = [argument(op, m, 1) for m in halves]
        if signed:
            table[op]["arg_negative"] = [argument(op, m, -1) for m in halves]
    fine = {op: [[m / 20, argument(op, m / 20, 1)] for m in range(201)] for op in INTEGER}
    note = "order is the index order used by np.random.choice; translate_pct is timm's default, 0.45"
    write_json(folder / "level_to_arg.json", {"order": ORDER, "note": note, "table": table, "fine_integer_tables": fine})


def chain(folder):
    cases = []
    rng = np.random.default_rng(40)
    sources = ("large_444", "large_420", "wide_420", "base_444_even", "base_440_odd", "base_gray_odd", "rst_blocks4")
    # Each operation is the first one once; the second one and its arguments are random.
    for k, first in enumerate(ORDER + ["none", "one"]):
        name = sources[k % len(sources)]
        image = Image.open(folder.parent / "01_decode" / "png" / f"{name}.png")
        width, height = image.size
        h, w = int(rng.integers(height // 3, height + 1)), int(rng.integers(width // 3, width + 1))
        i, j = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        size, interpolation, flip = 40, str(rng.choice(["bilinear", "bicubic"])), bool(k % 2)
        names = {"none": [], "one": [str(rng.choice(ORDER))]}.get(first, [first, str(rng.choice(ORDER))])
        out = F.resized_crop(image, i, j, h, w, (size, size), TORCHVISION[interpolation])
        out = ImageOps.mirror(out) if flip else out
        ops = []
        for op in names:
            magnitude, sign = float(np.clip(rng.normal(7, 0.5), 0, 10)), int(rng.choice([-1, 1]))
            arg = argument(op, magnitude, sign)
            resample = str(rng.choice(["bilinear", "bicubic"])) if op in GEOMETRIC else None
            out = apply_op(out, op, arg, resample)
            ops.append({"op": op, "magnitude": magnitude, "sign": sign, "arg": arg, "interpolation": resample})
        file = f"out/{k:02}.png"
        write_png(folder / file, out)
        cases.append({
            "jpeg": f"../01_decode/jpeg/{name}.jpg", "decoded_png": f"../01_decode/png/{name}.png",
            "i": i, "j": j, "h": h, "w": w, "size": size, "crop_interpolation": interpolation, "hflip": flip,
            "ops": ops, "output": file, "rgb_sha256": sha256(np.asarray(out)),
            "pillow13_vertical_first": vertical_first(h, w, size, size)})
    write_json(folder / "cases.json", {"fill": list(FILL), "cases": cases})
