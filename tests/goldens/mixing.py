"""05_mixup: timm's FastCollateMixup (uint8) and Mixup (float) with given parameters."""

import contextlib

import numpy as np
import timm.data.mixup as tm
import torch
from safetensors.numpy import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from common import picture, write_json

CLASSES, SAMPLES = 10, 8


@contextlib.contextmanager
def given(params):
    """Makes timm use given parameters, instead of drawing lambdas and the center of the box."""
    centers = [v for p in params if p["use_cutmix"] and p["lam_in"] != 1.0 for v in (p["cy"], p["cx"])]
    replaced = tm.np.random.randint, tm.Mixup._params_per_batch, tm.Mixup._params_per_elem
    lam = np.array([p["lam_in"] for p in params], dtype=np.float32)
    cut = np.array([p["use_cutmix"] for p in params])
    tm.np.random.randint = lambda low, high, size=None: centers.pop(0)
    tm.Mixup._params_per_batch = lambda _: (params[0]["lam_in"], params[0]["use_cutmix"])
    tm.Mixup._params_per_elem = lambda _, n: (lam.copy(), cut)
    try:
        yield
        assert not centers
    finally:
        tm.np.random.randint, tm.Mixup._params_per_batch, tm.Mixup._params_per_elem = replaced


@contextlib.contextmanager
def center(cy, cx):
    replaced, values = tm.np.random.randint, [cy, cx]
    tm.np.random.randint = lambda low, high, size=None: values.pop(0)
    try:
        yield
    finally:
        tm.np.random.randint = replaced


def finish(params, shape):
    """Adds the box and the corrected lambda that timm computes."""
    for p in params:
        p["lam_corrected"] = p["lam_in"]
        if p["use_cutmix"] and p["lam_in"] != 1.0:
            with center(p["cy"], p["cx"]):
                lam = p["lam_in"] if len(params) == 1 else np.float32(p["lam_in"])
                box, lam = tm.cutmix_bbox_and_lam(shape, lam)
            p["bbox_yl_yh_xl_xh"] = [int(v) for v in box]
            p["lam_corrected"] = float(lam)
    order = ("lam_in", "use_cutmix", "cy", "cx", "bbox_yl_yh_xl_xh", "lam_corrected")
    return [{k: p[k] for k in order if k in p} for p in params]


def parameters(height, width, rng):
    """Returns (name, mode, parameters) of every case for a batch size."""
    for k, lam in enumerate((0.7, 0.123456, 0.5, 1.0, 0.999, 0.0003, 0.0, rng.random())):
        yield f"batch_mixup_{k}", "batch", [{"lam_in": float(lam), "use_cutmix": False}]
    centers = ((height // 2, width // 2, 0.6), (0, width - 1, 0.3), (height - 1, 3, 0.91), (5, 5, 0.05), (2, 4, rng.random()))
    for k, (cy, cx, lam) in enumerate(centers):
        yield f"batch_cutmix_{k}", "batch", [{"lam_in": float(lam), "use_cutmix": True, "cy": cy, "cx": cx}]
    for mode, count in (("pair", SAMPLES // 2), ("elem", SAMPLES)):
        params = []
        for k in range(count):
            p = {"lam_in": float(np.float32(rng.random())), "use_cutmix": k % 2 == 0}
            if p["use_cutmix"]:
                p |= {"cy": int(rng.integers(height)), "cx": int(rng.integers(width))}
            params.append(p)
        yield mode, mode, params


def normalized(batch):
    mean, std = (torch.tensor([x * 255 for x in v]).view(1, 3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (torch.from_numpy(batch).float() - mean) / std


def run(kind, mode, batch, labels, smoothing, params):
    options = dict(mixup_alpha=0.2, cutmix_alpha=1.0, mode=mode, label_smoothing=smoothing, num_classes=CLASSES)
    with given(params):
        if kind == "float":
            out, target = tm.Mixup(**options)(normalized(batch), torch.from_numpy(labels))
        else:
            samples = [(image.copy(), int(label)) for image, label in zip(batch, labels)]
            out, target = tm.FastCollateMixup(**options)(samples)
    # save_file writes memory as it is, which must be in C order.
    return np.ascontiguousarray(out.numpy()), np.ascontiguousarray(target.float().numpy())


def rand_bbox():
    rng = np.random.default_rng(52)
    cases = []
    sizes = [(224, 224), (160, 160), (64, 64), (21, 33), (7, 5)]
    for k in range(60):
        h, w = sizes[k % len(sizes)]
        lam = float(rng.random()) if k % 6 else float(rng.choice([0.0, 0.25, 0.75, 0.9999]))
        cy, cx = int(rng.integers(h)), int(rng.integers(w))
        case = {"h": h, "w": w, "lam": lam, "cy": cy, "cx": cx}
        for name, value in (("f64", lam), ("f32", np.float32(lam))):
            with center(cy, cx):
                box, corrected = tm.cutmix_bbox_and_lam((h, w), value)
            case[f"bbox_{name}"] = [int(v) for v in box]
            case[f"lam_corrected_{name}"] = float(corrected)
        ratio = np.sqrt(1 - lam)
        box = [int(np.clip(c + s * (int(n * ratio) // 2), 0, n)) for c, n in ((cy, h), (cx, w)) for s in (-1, 1)]
        case["bbox_legacy"] = box
        case["lam_corrected_legacy"] = 1.0 - (box[1] - box[0]) * (box[3] - box[2]) / float(h * w)
        cases.append(case)
    note = ("bbox = yl,yh,xl,xh. f64: lam is a Python float (batch mode). f32: lam is np.float32 (pair and elem mode), "
            "sqrt and product then run in float32. legacy: older timm, which floors half the size on both sides")
    return {"note": note, "cases": cases}


def make(folder):
    rng = np.random.default_rng(50)
    labels = np.array([3, 1, 4, 1, 5, 9, 2, 6], dtype=np.int64)
    batches = {name: np.stack([picture(h, w, 60 + k).transpose(2, 0, 1) for k in range(SAMPLES)])
               for name, h, w in (("batch", 10, 10), ("batch_odd", 5, 7))}
    arrays = {"labels": labels} | {k: np.ascontiguousarray(v) for k, v in batches.items()}
    cases = []
    for kind in ("collate", "float"):
        for name, batch in batches.items():
            for smoothing in (0.0, 0.1):
                for case, mode, params in parameters(*batch.shape[2:], rng):
                    number = int(case[-1]) if case[-1].isdigit() else 0
                    # Every parameter once; then two of each kind, and of the larger floats only those unsmoothed.
                    if (smoothing or kind == "float") and number > 1:
                        continue
                    if kind == "float" and (name == "batch") == bool(smoothing):
                        continue
                    params = finish(params, batch.shape)
                    out, target = run(kind, mode, batch, labels, smoothing, params)
                    full = f"{kind}_{name}_{case}_s{smoothing}"
                    arrays |= {f"{full}.out": out, f"{full}.target": target}
                    cases.append({"name": full, "kind": kind, "mode": mode, "input": name,
                                  "smoothing": smoothing, "num_classes": CLASSES, "params": params})
    note = "mixup.safetensors: <case>.out, <case>.target (float32 [8,10]), batch/batch_odd uint8 NCHW, labels i64"
    write_json(folder / "cases.json", {"arrays": note, "cases": cases})
    write_json(folder / "rand_bbox.json", rand_bbox())
    save_file(arrays, folder / "mixup.safetensors")
