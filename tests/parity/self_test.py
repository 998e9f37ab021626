"""Tests replay.py. timm's own transforms and collate function compute a microbatch, whose draws are recorded in the form
of `explain`. The replay must equal it, and must detect any change."""

import contextlib
import copy
import io
import math
import pathlib
import random
import tarfile
import tempfile

import numpy as np
import timm.data.auto_augment as aa
import torch
from PIL import Image
from timm.data import mixup
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.data.transforms_factory import create_transform

import replay

SIZE, SAMPLES = 48, 8
NAMES = {id(f): name for name, f in aa.NAME_TO_OP.items()}
FILTERS = {Image.BILINEAR: "bilinear", Image.BICUBIC: "bicubic"}


def pictures(folder):
    """Writes eight JPEGs in two classes, and the same in a tar."""
    rng = np.random.default_rng(1)
    tar = tarfile.open(folder / "set-000000.tar", "w")
    names = []
    for k in range(SAMPLES):
        height, width = (int(n) for n in rng.integers(60, 140, 2))
        y, x = np.mgrid[0:height, 0:width]
        waves = [128 + 100 * np.sin(x / a + y / b) for a, b in rng.uniform(3, 20, (3, 2))]
        path = folder / "train" / "ab"[k % 2] / f"{k}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(path, quality=92)
        tar.add(path, f"{k}.jpg")
        names.append((path, f"train/{'ab'[k % 2]}/{k}.JPEG", f"set-000000.tar/{k}.jpg"))
    tar.close()
    return names


@contextlib.contextmanager
def replaced(module, name, value):
    kept = getattr(module, name)
    setattr(module, name, value)
    try:
        yield kept
    finally:
        setattr(module, name, kept)


def train_sample(path, record):
    """Applies timm's train transform to a file; returns (pixels HWC, plan)."""
    image = Image.open(path).convert("RGB")
    plan = {"slot": record, "position": record, "record": record, "label": record % 2,
            "size": [image.height, image.width], "ops": []}
    transform = create_transform(SIZE, is_training=True, auto_augment="rand-m7-mstd0.5-inc1",
                                 interpolation="random", hflip=0.5, use_prefetcher=True)
    original = RandomResizedCropAndInterpolation.get_params
    crop = replay.F.resized_crop
    import timm.data.transforms as tt

    def params(*args):
        plan["box"] = list(original(*args))
        return plan["box"]

    def resized_crop(image, i, j, h, w, size, interpolation):
        plan["interpolation"] = interpolation.value
        return crop(image, i, j, h, w, size, interpolation)

    def record_op(op):
        function, name = op.aug_fn, op.name

        def call(image, *args, **kwargs):
            resample = random.choice(kwargs["resample"]) if isinstance(kwargs["resample"], tuple) else kwargs["resample"]
            plan["ops"].append({"name": name, "arg": args[0] if args else None, "interpolation": FILTERS[resample]})
            return function(image, *args, **kwargs | {"resample": resample})

        op.aug_fn = call

    for step in transform.transforms:
        for op in getattr(step, "ops", []):
            record_op(op)
    flips = []
    flip = replay.F.hflip
    with replaced(RandomResizedCropAndInterpolation, "get_params", staticmethod(params)), \
            replaced(tt.F, "resized_crop", resized_crop), \
            replaced(replay.F, "hflip", lambda image: flips.append(1) or flip(image)):
        out = np.asarray(transform(image))
    plan["flip"] = bool(flips)
    return out.transpose(1, 2, 0), plan


def eval_sample(path, record):
    image = Image.open(path).convert("RGB")
    transform = create_transform(SIZE, is_training=False, interpolation="bicubic", crop_pct=0.95, use_prefetcher=True)
    short = math.floor(SIZE / 0.95)
    height, width = image.height, image.width
    resized = [short, int(short * width / height)] if height <= width else [int(short * height / width), short]
    window = [round((resized[0] - SIZE) / 2), round((resized[1] - SIZE) / 2), SIZE, SIZE]
    plan = {"slot": record, "position": record, "record": record, "label": record % 2, "size": [height, width],
            "box": [0, 0, height, width], "resized": resized, "window": window,
            "interpolation": "bicubic", "flip": False, "ops": []}
    return np.asarray(transform(image)).transpose(1, 2, 0), plan


def mixed(mode, pixels, plans, cutmix):
    """Runs timm's FastCollateMixup and records its draws; returns (pixels, mix as in explain, lambdas)."""
    collate = mixup.FastCollateMixup(mixup_alpha=0.8, cutmix_alpha=1.0, mode=mode, switch_prob=cutmix,
                                     label_smoothing=0.0, num_classes=2)
    boxes, draws = [], {}
    per_batch, per_elem = collate._params_per_batch, collate._params_per_elem
    collate._params_per_batch = lambda: draws.setdefault("batch", per_batch())
    # timm overwrites the drawn lambdas by corrected ones, so that the drawn ones are copied.
    collate._params_per_elem = lambda n: [a.copy() for a in draws.setdefault("each", per_elem(n))]
    real = mixup.cutmix_bbox_and_lam

    def recorded(*args, **kwargs):
        box, lam = real(*args, **kwargs)
        boxes.append(([int(v) for v in box], float(lam)))
        return box, lam

    samples = [(np.ascontiguousarray(p.transpose(2, 0, 1)), plan["label"]) for p, plan in zip(pixels, plans)]
    with replaced(mixup, "cutmix_bbox_and_lam", recorded):
        out, target = collate(samples)
    lambdas = np.empty(SAMPLES, dtype=np.float32)
    if mode == "batch":
        lam, cut = draws["batch"]
        box, lam = boxes[0] if cut else (None, lam)
        lambdas[:] = lam
        mix = {"mode": "cutmix" if cut else "mixup", "lambda": lam, "box": box}
    else:
        mix = {"mode": "mixup", "lambda": 1.0, "box": None}
        rest = list(boxes)
        each = [rest.pop(0)[::-1] if cut and lam != 1 else (float(lam), None) for lam, cut in zip(*draws["each"])]
        each = each + each[::-1] if mode == "pair" else each
        for k, (lam, box) in enumerate(each):
            plans[k] |= {"lambda": lam, "mix_box": box}
            lambdas[k] = lam
    for k, plan in enumerate(plans):
        plan["partner"] = SAMPLES - 1 - k
    return out.numpy().transpose(0, 2, 3, 1), mix, lambdas


def case(names, name_at, sample, mode, cutmix):
    made = [sample(path[0], k) for k, path in enumerate(names)]
    pixels, plans = [m[0] for m in made], [m[1] for m in made]
    for plan, path in zip(plans, names):
        plan["file"] = path[name_at]
    mix, lambdas = {"mode": "none", "lambda": 1.0, "box": None}, np.ones(SAMPLES, dtype=np.float32)
    if mode:
        pixels, mix, lambdas = mixed(mode, pixels, plans, cutmix)
    labels = np.array([p["label"] for p in plans])
    dump = {"pixels": np.array(pixels), "label_a": labels, "label_b": labels[::-1] if mode else labels,
            "record": np.arange(SAMPLES), "lambda": lambdas}
    return {"mix": mix, "samples": plans}, dump


def spoilt(explain, dump):
    """Yields wrong variants of a correct pair, each of which the replay must detect."""
    for change in ("pixel", "lambda", "record", "flip", "box"):
        e, d = copy.deepcopy(explain), {k: v.copy() for k, v in dump.items()}
        if change == "pixel":
            d["pixels"][3, 5, 7, 1] ^= 1
        elif change == "lambda":
            d["lambda"][2] *= np.float32(0.5)
        elif change == "record":
            d["record"][1] += 1
        elif change == "flip":
            e["samples"][4]["flip"] ^= True
        elif "resized" in e["samples"][0]:
            e["samples"][0]["window"][0] -= 1
        else:
            e["samples"][0]["box"][2] -= 1
        yield change, e, d


def run():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    failed = 0

    def expect(what, right, explain, dump, dataset, decoded=None):
        nonlocal failed
        with contextlib.redirect_stdout(io.StringIO()) as text:
            same = replay.compare(explain, dump, dataset, decoded, unmixed=False)
        failed += same != right
        print(f"{'ok' if same == right else 'FAILED'}: {what}")
        if same != right:
            print(text.getvalue())

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        names = pictures(folder)
        for k, (path, *_) in enumerate(names):
            Image.open(path).convert("RGB").save(folder / f"{k}.png")
        modes = [(None, 0.0), ("batch", 0.0), ("batch", 1.0), ("pair", 0.5), ("elem", 0.5)]
        for round_, (mode, cutmix) in enumerate(modes * 3 + [("eval", 0)]):
            sample, mode = (eval_sample, None) if mode == "eval" else (train_sample, mode)
            name_at = 1 + round_ % 2
            explain, dump = case(names, name_at, sample, mode, cutmix)
            dataset = replay.Dataset(folder)
            label = f"{sample.__name__}, {mode or 'not mixed'}, {('ImageFolder', 'WebDataset')[name_at - 1]}"
            expect(label, True, explain, dump, dataset)
            expect(f"{label}, decoded pixels given", True, explain, dump, dataset, folder)
            for change, e, d in spoilt(explain, dump):
                expect(f"{label}: a wrong {change} is noticed", False, e, d, dataset)
    print("self-test passed" if not failed else f"self-test: {failed} failed")
    return int(failed > 0)
