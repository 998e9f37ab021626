"""15_transforms, 16_colors: timm's other crops and filters on Pillow, and torchvision's color operations."""

import hashlib
import math
import random

import numpy as np
import torch
import torchvision.transforms._functional_tensor as tensor
import torchvision.transforms.functional as F
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import CenterCropOrPad, RandomCropOrPad, ResizeKeepRatio, str_to_interp_mode
from torchvision import transforms

from common import FILL, picture, summary, write_json, write_png

FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
DRAWS = 20_000


def sheet(images):
    """One picture of several, as a column: fewer files. Returns it and the row at which each begins."""
    width = max(i.width for i in images)
    out = Image.new("RGB", (width, sum(i.height for i in images)))
    rows, y = [], 0
    for image in images:
        out.paste(image, (0, y))
        rows.append(y)
        y += image.height
    return out, rows


class Recorder:
    """Records what timm's crop of an image does: the resized size, the padding, the window."""

    def __enter__(self):
        self.kept = {name: getattr(F, name) for name in ("resize", "pad", "crop")}
        self.calls = {}
        for name in self.kept:
            setattr(F, name, self.record(name))
        return self

    def record(self, name):
        def call(image, *args, **options):
            self.calls[name] = args
            return self.kept[name](image, *args, **options)

        return call

    def __exit__(self, *_):
        for name, function in self.kept.items():
            setattr(F, name, function)


def crops(folder):
    inputs = {"wide": picture(41, 67, 140), "tall": picture(75, 33, 141), "square": picture(48, 48, 142),
              "column": picture(420, 3, 143), "row": picture(2, 90, 144), "dot": picture(1, 1, 145),
              "small": picture(9, 13, 146)}
    for name, pixels in inputs.items():
        write_png(folder / f"in/{name}.png", pixels)
    pictures = {name: Image.fromarray(pixels) for name, pixels in inputs.items()}

    resizes, outs = [], []
    sizes = [(24, 24), (17, 40), (90, 31), (5, 7), (1, 1), (41, 30), (20, 67)]
    for name, image in pictures.items():
        for filter_ in FILTERS:
            for height, width in sizes if name in ("wide", "tall") else sizes[:3]:
                outs.append(F.resize(image, [height, width], str_to_interp_mode(filter_)))
                resizes.append({"input": f"in/{name}.png", "height": height, "width": width, "filter": filter_})
    out, rows = sheet(outs)
    write_png(folder / "resizes.png", out)
    for case, row in zip(resizes, rows):
        case["row"] = row

    # Each case has timm's own parameters, as its functions were called with them.
    cases, outs = [], []
    for k, (name, image) in enumerate(pictures.items()):
        for crop in ("rkrc", "rkrr", "simple", "center", "squash", "border"):
            for repeat in range(3):
                if crop == "border" and max(image.size) > 30 * min(image.size):
                    continue  # A side of 0 pixels, at which timm fails.
                random.seed(1000 * k + repeat)
                torch.manual_seed(1000 * k + repeat)
                side = (24, 16, 33)[repeat]
                filter_ = ("bicubic", "lanczos", "nearest")[repeat]
                train = crop in ("rkrc", "rkrr")
                with Recorder() as recorder:
                    if crop == "simple":
                        resized = F.resize(image, side, str_to_interp_mode(filter_))
                        made = transforms.RandomCrop(side, padding=4, padding_mode="reflect")(resized)
                    elif train:
                        scale, ratio = (((0.3, 2.0), (0.5, 2.0)), (None, None))[repeat == 2]
                        made = create_transform(
                            side, is_training=True, train_crop_mode=crop, scale=scale, ratio=ratio, hflip=0.0,
                            color_jitter=None, interpolation=filter_, use_prefetcher=True)(image)
                    else:
                        made = create_transform(
                            side, crop_pct=0.8, crop_mode=crop, interpolation=filter_, use_prefetcher=True,
                            crop_border_pixels=(0, 3, 0)[repeat] if min(image.size) > 6 else 0)(image)
                made = made if isinstance(made, Image.Image) else F.to_pil_image(made)
                outs.append(made)
                cases.append(framing(name, crop, side, filter_, image, recorder.calls, repeat))
    out, rows = sheet(outs)
    write_png(folder / "crops.png", out)
    for case, row in zip(cases, rows):
        case["row"] = row

    # Where the seven pictures end up without any draw, for every size and mode.
    places = []
    for crop in ("center", "squash", "border"):
        for height, width in [(1, 1), (1, 60), (37, 40), (40, 37), (375, 500), (500, 333), (64, 64), (3, 1000)]:
            for side, resize in ((32, 32), (32, 37), (33, 40), (20, 21)):
                if crop == "border" and max(width, height) > 30 * min(width, height):
                    continue
                image = Image.new("RGB", (width, height))
                mode = str_to_interp_mode("bicubic")
                with Recorder() as recorder:
                    if crop == "border":
                        CenterCropOrPad(side, fill=list(FILL))(ResizeKeepRatio((resize, resize), longest=1.0)(image))
                    else:
                        size = resize if crop == "center" else [resize, resize]
                        F.center_crop(F.resize(image, size, mode), [side, side])
                case = framing("", crop, side, "bicubic", image, recorder.calls, 0)
                places.append({**case, "height": height, "width": width, "resize": resize})
    write_json(folder / "cases.json", {"resizes": resizes, "crops": cases, "places": places, "random": statistics()})


def framing(name, crop, side, filter_, image, calls, repeat):
    trim = 3 if crop in ("center", "squash", "border") and repeat == 1 and min(image.size) > 6 else 0
    source = [trim, trim, image.height - 2 * trim, image.width - 2 * trim]
    size = calls["resize"][0]
    if isinstance(size, (list, tuple)):
        height, width = (size[0], size[0]) if len(size) == 1 else size
    else:
        h, w = source[2:]
        height, width = (size, int(size * w / h)) if h < w else (int(size * h / w), size)
    padding = calls["pad"][0] if "pad" in calls else 0
    left, top, *_ = padding if isinstance(padding, (list, tuple)) else [padding] * 4
    trimming = trim and tuple(calls["crop"]) == tuple(source)
    y, x = calls["crop"][:2] if "crop" in calls and not trimming else (0, 0)
    # The window in the padded picture -> in the resized one.
    window = [max(y - top, 0), max(x - left, 0)]
    before = [max(top - y, 0), max(left - x, 0)]
    count = [min(side - b, s - w) for b, s, w in zip(before, (height, width), window)]
    after = [side - b - c for b, c in zip(before, count)]
    return {"input": f"in/{name}.png", "crop": crop, "side": side, "filter": filter_, "source": source,
            "resized": [height, width], "window": window + count, "padding": before + after,
            "mode": "constant" if crop == "border" else "reflect"}


def statistics():
    """Distributions of timm's sizes and places."""
    out = {}
    for width, height in ((500, 375), (375, 500), (64, 64)):
        image = Image.new("RGB", (width, height))
        random.seed(width)
        args = (224, 224), 0.0, 0.5, (0.8, 1.0), True, 0.5, (0.9, 1 / 0.9)
        sizes = [ResizeKeepRatio.get_params(image, *args) for _ in range(DRAWS)]
        places = [RandomCropOrPad.get_params(Image.new("RGB", (w, h)), (224, 224)) for h, w in sizes[:2000]]
        h, w = (np.array(column, dtype=np.float64) for column in zip(*sizes))
        out[f"{width}x{height}"] = {
            "width": width, "height": height, "scale": [0.8, 1.0], "ratio": [0.9, 1 / 0.9],
            "resized_height": summary(h), "resized_width": summary(w), "area": summary(h * w),
            "top": summary([top for top, _ in places]), "left": summary([left for _, left in places])}
    return out


OPS = {"adjust_brightness": (0.0, 0.6, 1.0, 1.73, 3.0), "adjust_contrast": (0.0, 0.6, 1.0, 1.73, 3.0),
       "adjust_saturation": (0.0, 0.6, 1.0, 1.73, 3.0), "adjust_hue": (-0.5, -0.1, 0.0, 0.003, 0.21, 0.5),
       "rgb_to_grayscale": (None,), "gaussian_blur": (0.1, 0.31, 0.7, 1.25, 2.0)}


def correct_kernel(size, sigma, dtype, device):
    """torchvision's weights with an exponential that is rounded correctly, where MKL's sometimes is not."""
    half = (size - 1) * 0.5
    x = torch.linspace(-half, half, steps=size, dtype=dtype, device=device)
    pdf = torch.exp((-0.5 * (x / sigma).pow(2)).double()).to(dtype)
    return pdf / pdf.sum()


def apply(op, image, arg):
    if op == "rgb_to_grayscale":
        return F.rgb_to_grayscale(image, num_output_channels=3)
    if op == "gaussian_blur":
        kernel = tensor._get_gaussian_kernel1d
        tensor._get_gaussian_kernel1d = correct_kernel
        try:
            return F.gaussian_blur(image, [23, 23], [arg, arg])
        finally:
            tensor._get_gaussian_kernel1d = kernel
    return getattr(F, op)(image, arg)


def every_color():
    """All colors of 8 bits, in the order of red, green, blue."""
    values = np.arange(1 << 24, dtype=np.uint32)
    return np.stack([values >> 16, values >> 8 & 255, values & 255], -1).astype(np.uint8).reshape(4096, 4096, 3)


def colors(folder):
    y, x = np.mgrid[0:12, 0:30]
    inputs = {"odd": picture(23, 29, 151), "noise": np.random.default_rng(152).integers(0, 256, (14, 12, 3), dtype=np.uint8),
              "ramps": np.stack([x * 8, y * 20, (x + y) * 6], -1).astype(np.uint8),
              "flat": np.full((13, 12, 3), (17, 128, 250), dtype=np.uint8)}
    cases, outs = [], []
    for name, pixels in inputs.items():
        write_png(folder / f"in/{name}.png", pixels)
        image = Image.fromarray(pixels)
        for op, args in OPS.items():
            for arg in args:
                outs.append(apply(op, image, arg))
                cases.append({"input": f"in/{name}.png", "ops": [{"op": op, "arg": arg}]})
        rng = random.Random(name)
        for _ in range(6):
            out, ops = image, []
            for op in rng.sample(list(OPS), 4):
                low, high = (OPS[op][0] or 0, OPS[op][-1] or 0)
                arg = None if op == "rgb_to_grayscale" else rng.uniform(low, high)
                out = apply(op, out, arg)
                ops.append({"op": op, "arg": arg})
            outs.append(out)
            cases.append({"input": f"in/{name}.png", "ops": ops})
    out, rows = sheet(outs)
    write_png(folder / "out.png", out)
    for case, row in zip(cases, rows):
        case["row"] = row
    every = Image.fromarray(every_color())
    digests = [{"arg": arg, "sha256": hashlib.sha256(np.asarray(F.adjust_hue(every, arg)).tobytes()).hexdigest()}
               for arg in (0.0, 0.3)]
    write_json(folder / "cases.json", {"cases": cases, "hue_of_every_color": digests, "random": color_statistics()})


def color_statistics():
    torch.manual_seed(153)
    jitter = transforms.ColorJitter(0.4, 0.3, 1.5, 0.1)
    drawn = [transforms.ColorJitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
             for _ in range(DRAWS)]
    names = ("brightness", "contrast", "saturation", "hue")
    order = np.array([d[0].tolist() for d in drawn])
    sigmas = [transforms.GaussianBlur.get_params(0.1, 2.0) for _ in range(DRAWS)]
    return {"jitter": [0.4, 0.3, 1.5, 0.1],
            **{name: summary([d[k + 1] for d in drawn]) for k, name in enumerate(names)},
            "first": [float((order[:, 0] == k).mean()) for k in range(4)],
            "last": [float((order[:, 3] == k).mean()) for k in range(4)], "sigma": summary(sigmas)}
