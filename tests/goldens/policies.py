"""14_policy: operations, magnitudes and draws of timm's policies beyond RandAugment's increasing set, and of torchvision's."""

import itertools
import random

import numpy as np
import timm.data.auto_augment as aa
import torch
from PIL import Image
from torchvision.transforms import v2

from common import FILL, summary, write_json, write_png
from pixels import PIL_FILTER, op_inputs

DRAWS = 20_000
HPARAMS = {"translate_const": 100, "translate_pct": 0.45, "img_mean": FILL}
SIDE = 224  # of the samples whose draws are recorded
# The operations that 03_randaug does not have, with arguments beyond those of magnitudes.
OPS = {
    "Posterize": [0, 3, 4], "PosterizeOriginal": [4, 7, 8], "PosterizeIncreasing": [-3, 0],
    "Solarize": [0, 128, 255, 256],
    "Color": [0.1, 0.82, 1.9], "Contrast": [0.1, 1.54, 1.9], "Brightness": [0.1, 1.9], "Sharpness": [0.1, 1.9],
    "TranslateX": [-31.4, 4.0, 7.25], "TranslateY": [-8.5, 3.0, 40.0],
    "Desaturate": [0.5, 0.77, 1.0, 1.2],
    "GaussianBlur": [0.1, 0.3, 0.57735, 0.7, 1.0, 1.2345, 1.4142, 1.5, 1.97, 2.0, 3.3, 9.0],
    "Rotate": [63.7, -90.0],
}
CONFIGS = (
    "rand-m9-n3-mstd0.5-p0.6", "rand-m12-mstd3-mmax30-inc1", "rand-m15-mstd101-inc1", "rand-m7-n5-mstd1-tweights",
    "rand-m6-n2-t3a-mstd101", "rand-m8-n6-t3aw", "original", "originalr-mstd0.5", "v0-mstd1", "v0r", "3a", "3a-mstd2",
)
MIXTURES = ("augmix-m5-w4-d2", "augmix-m3-w3-a0.4-b1", "augmix-m7-w2-a3-mstd1.5")
# Policies of torchvision, and the transform of each.
TORCH = {
    "torchvision-ta-wide": lambda: v2.TrivialAugmentWide(),
    "torchvision-rand-n3-m7": lambda: v2.RandAugment(num_ops=3, magnitude=7),
    "torchvision-auto-imagenet": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
    "torchvision-auto-cifar10": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "torchvision-auto-svhn": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.SVHN),
}
SPACES = {"wide": (v2.TrivialAugmentWide, 31), "narrow31": (v2.RandAugment, 31), "narrow10": (v2.AutoAugment, 10)}
TORCH_FILTERS = ("nearest", "bilinear", "bicubic")


def torch_ops(folder):
    """torchvision's operations on Pillow's images, at all magnitudes of TrivialAugmentWide and some of the others."""
    cases, inputs = [], op_inputs()
    space = v2.TrivialAugmentWide._AUGMENTATION_SPACE
    for op in [*v2.AutoAugment._AUGMENTATION_SPACE]:
        wide = space.get(op, (lambda *_: None, False))[0](31, 23, 29)
        magnitudes = [None] if wide is None else [float(m) for m in wide]
        if op.startswith(("Shear", "Translate", "Rotate")):
            magnitudes = [sign * m for m in magnitudes for sign in (1, -1)] + ([90.0, 180.0] if op == "Rotate" else [])
        elif wide is not None and op not in ("Posterize", "Solarize"):
            magnitudes = [sign * m for m in magnitudes[::10] for sign in (1, -1)]
        for name in ("odd29x23", "sq24", "px1"):
            if name != "odd29x23":
                magnitudes = magnitudes[::9]
            outputs, file = [], f"out/torch_{op}_{name}.png"
            filters = TORCH_FILTERS if op.startswith(("Shear", "Translate", "Rotate")) else (None,)
            for magnitude, interpolation in itertools.product(magnitudes, filters):
                # All angles and factors by the nearest pixel, some by the others.
                if interpolation in TORCH_FILTERS[1:] and magnitudes.index(magnitude) % 7:
                    continue
                transform = v2.TrivialAugmentWide(interpolation=interpolation or "nearest")
                out = transform._apply_image_or_video_transform(
                    Image.fromarray(inputs[name]), op, magnitude or 0.0,
                    interpolation=transform.interpolation, fill=transform._fill)
                cases.append({"library": "torchvision", "op": op, "arg": magnitude, "interpolation": interpolation,
                              "input": f"../03_randaug/in/{name}.png", "output": file, "index": len(outputs)})
                outputs.append(np.asarray(out))
            write_png(folder / file, np.concatenate(outputs))
    return cases


def torch_levels():
    out = {}
    for name, (transform, bins) in SPACES.items():
        for side in (224, 160):
            out[f"{name}/{side}"] = {"bins": bins, "side": side, "ops": {
                op: None if magnitudes(bins, side, side) is None else [float(m) for m in magnitudes(bins, side, side)]
                for op, (magnitudes, _) in transform._AUGMENTATION_SPACE.items()}}
    return out


def interpolations(op):
    return ("bilinear", "bicubic") if op.startswith(("Translate", "Rotate")) else (None,)


def ops(folder):
    """Outputs of all cases with the same operation and input are in one image, one below the other."""
    cases = []
    inputs = op_inputs()
    for op, name in itertools.product(OPS, ("odd29x23", "grad29x23", "small5x3", "px1", "lowcon")):
        outputs = []
        file = f"out/{op}_{name}.png"
        for arg, interpolation in itertools.product(OPS[op], interpolations(op)):
            resample = PIL_FILTER[interpolation or "bicubic"]
            out = aa.NAME_TO_OP[op](Image.fromarray(inputs[name]), arg, fillcolor=FILL, resample=resample)
            cases.append({"op": op, "arg": arg, "interpolation": interpolation,
                          "input": f"../03_randaug/in/{name}.png", "output": file, "index": len(outputs)})
            outputs.append(np.asarray(out))
        write_png(folder / file, np.concatenate(outputs))
    return cases


def levels():
    """The argument of timm's function for each operation and magnitude, with the coin of the sign given."""
    magnitudes = [m / 4 for m in range(0, 41)] + [10.5, 12.0, 13.0, 20.0, 30.0]
    table = {}
    kept = aa.random.random
    try:
        for op, level in aa.LEVEL_TO_ARG.items():
            if level is None or op == "GaussianBlurRand":
                continue
            columns = []
            for coin in (0.0, 1.0):
                aa.random.random = lambda: coin
                columns.append([level(m, HPARAMS)[0] for m in magnitudes])
            table[op] = {"positive": columns[0], "negative": columns[1]}
    finally:
        aa.random.random = kept
    return {"magnitudes": magnitudes, "hparams": {k: HPARAMS[k] for k in ("translate_const", "translate_pct")},
            "ops": table}


def mixtures(folder):
    """AugMix with given weights and chains; outputs of an input are one below the other."""
    rng = np.random.default_rng(14)
    inputs, cases = op_inputs(), []
    for name in ("odd29x23", "sq24", "lowcon"):
        outputs = []
        for k in range(8):
            width, blended = (1, 3, 4, 16)[k % 4], k >= 4
            alpha = (1.0, 0.3)[k % 2]
            weights = np.float32(rng.dirichlet([alpha] * width))
            weight = np.float32((rng.beta(alpha, alpha), 1.0, 0.0)[k % 3])
            chains = []
            for chain in range(width):
                ops = []
                for _ in range(int(rng.integers(1, 4))):
                    op = str(rng.choice(aa._AUGMIX_TRANSFORMS))
                    random.seed(int(rng.integers(1 << 30)))
                    level = aa.LEVEL_TO_ARG[op]
                    arg = level(float(rng.uniform(0, 10)), {"translate_pct": 0.3})[0] if level else None
                    geometric = op.startswith(("Rotate", "Shear", "Translate"))
                    ops.append({"op": op, "arg": arg, "interpolation": "bicubic" if geometric else None})
                chains.append({"weight": float(weights[chain]), "ops": ops})
            out = aug_mix(Image.fromarray(inputs[name]), chains, weight, blended)
            cases.append({"kind": "blended" if blended else "summed", "weight": float(weight), "chains": chains,
                          "input": f"../03_randaug/in/{name}.png", "output": f"out/AugMix_{name}.png", "index": k})
            outputs.append(np.asarray(out))
        write_png(folder / f"out/AugMix_{name}.png", np.concatenate(outputs))
    return cases


def aug_mix(image, chains, weight, blended):
    """timm's AugMixAugment with given draws."""
    def function(op):
        args = [] if op["arg"] is None else [op["arg"]]
        resample = PIL_FILTER[op["interpolation"] or "bicubic"]
        return lambda image: aa.NAME_TO_OP[op["op"]](image, *args, fillcolor=FILL, resample=resample)

    rest = iter(chains)
    kept, aa.np.random.choice = aa.np.random.choice, lambda *_, **__: [function(op) for op in next(rest)["ops"]]
    try:
        augment = aa.AugMixAugment([], width=len(chains), blended=blended)
        apply = augment._apply_blended if blended else augment._apply_basic
        return apply(image, np.float32([chain["weight"] for chain in chains]), np.float32(weight))
    finally:
        aa.np.random.choice = kept


class Recorder:
    """Records what is applied by timm's own transforms, whose pixel functions are replaced."""

    def __init__(self):
        self.applied = []  # of one sample

    def replace(self, op):
        def function(image, *args, **_):
            name = op.name
            if name == "GaussianBlurRand":  # draws its radius inside
                name, args = "GaussianBlur", (random.uniform(0.1, 2.0 * args[0]),)
            self.applied.append((name, args[0] if args else None))
            return image

        op.aug_fn = function


def statistics(config):
    random.seed(len(config))
    np.random.seed(len(config))
    torch.manual_seed(len(config))
    recorder, image = Recorder(), None
    if config in TORCH:
        transform, image = TORCH[config](), Image.new("RGB", (SIDE, SIDE))

        def record(image, name, magnitude, **_):
            if name != "Identity":
                signed = name not in ("AutoContrast", "Equalize", "Invert")
                recorder.applied.append((name, magnitude if signed else None))
            return image

        transform._apply_image_or_video_transform = record
    else:
        hparams = {"translate_const": int(SIDE * 0.45), "img_mean": FILL}
        make = aa.rand_augment_transform if config.startswith("rand") else aa.auto_augment_transform
        transform = make(config, hparams)
        for op in transform.ops if config.startswith("rand") else itertools.chain.from_iterable(transform.policy):
            recorder.replace(op)
    counts, args, pairs = {}, {}, {}
    for _ in range(DRAWS):
        recorder.applied = []
        transform(image)
        names = [name for name, _ in recorder.applied]
        counts[len(names)] = counts.get(len(names), 0) + 1
        for pair in zip(names, names[1:]):
            pairs["+".join(pair)] = pairs.get("+".join(pair), 0) + 1
        for name, arg in recorder.applied:
            args.setdefault(name, []).append(arg)
    return {
        "draws": DRAWS,
        "applied": {str(n): count / DRAWS for n, count in sorted(counts.items())},
        # Which follow each other: the sub-policies of AutoAugment, draws without replacement.
        "pairs": {pair: count / DRAWS for pair, count in sorted(pairs.items())},
        "ops": {name: {"per_sample": len(values) / DRAWS,
                       "arg": None if values[0] is None else summary(values),
                       "positive": None if values[0] is None else float(np.mean(np.array(values) > 0))}
                for name, values in sorted(args.items())},
    }


def mixture_statistics(config):
    """What timm's AugMix draws: weights, depths, operations."""
    np.random.seed(len(config))
    random.seed(len(config))
    transform = aa.augment_and_mix_transform(config, {"translate_pct": 0.3, "img_mean": FILL})
    recorder, draws = Recorder(), {"weight": [], "first": [], "largest": [], "depth": []}
    for op in transform.ops:
        recorder.replace(op)
    choice = aa.np.random.choice
    depths, args = [], {}

    def chosen(ops, depth, **kwargs):
        depths.append(depth)
        return choice(ops, depth, **kwargs)

    def record(image, weights, m):
        draws["weight"].append(float(m))
        draws["first"].append(float(weights[0]))
        draws["largest"].append(float(weights.max()))
        for _ in weights:
            depth = transform.depth if transform.depth > 0 else np.random.randint(1, 4)
            for op in chosen(transform.ops, depth, replace=True):
                op(image)

    transform._apply_basic = transform._apply_blended = record
    for _ in range(DRAWS // 4):
        recorder.applied = []
        transform(None)
        for name, arg in recorder.applied:
            args.setdefault(name, []).append(arg)
    draws["depth"] = depths
    return {"draws": DRAWS // 4, "mixture": {name: summary(values) for name, values in draws.items()},
            "ops": {name: {"share": len(values) / sum(map(len, args.values())), "n": sum(map(len, args.values())),
                           "arg": None if values[0] is None else summary(values)}
                    for name, values in sorted(args.items())}}


def make(folder):
    write_json(folder / "cases.json", {"fill": list(FILL), "cases": ops(folder) + torch_ops(folder), "mixtures": mixtures(folder)})
    write_json(folder / "levels.json", levels() | {"torchvision": torch_levels()})
    write_json(folder / "stats.json", {config: statistics(config) for config in (*CONFIGS, *TORCH)})
    write_json(folder / "mixtures.json", {config: mixture_statistics(config) for config in MIXTURES})
