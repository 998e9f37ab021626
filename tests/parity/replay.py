"""Replays the plan of a microbatch with timm, torchvision and Pillow, and compares the result with forebay's.

    python replay.py DATASET --explain explain.json --dump dump.safetensors [--decoded DIR]
    python replay.py --self-test

DATASET is an ImageFolder split (or its parent, with `train/` or `val/` inside) or WebDataset tars.
Every sample named by `forebay explain` is cropped, resized, flipped and augmented by timm's or
torchvision's own functions, mixed by timm's FastCollateMixup, and must equal `forebay dump` in every bit. Without
`--decoded` Pillow decodes the original files; with it the pictures are `<record>.png` in a folder
that `forebay dump --decoded DIR` wrote. Exits 1 on any difference.
"""

import argparse
import io
import json
import pathlib
import sys
import tarfile

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from timm.data import auto_augment, mixup
from torchvision.transforms import InterpolationMode, v2
import torchvision.transforms.functional as F

import transforms

PICTURES = ("jpg", "jpeg", "png")
FILL = (124, 116, 104)  # round(255 * ImageNet's mean), timm's `img_mean`
TORCHVISION = {mode.value: mode for mode in InterpolationMode}
PILLOW = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}


class Dataset:
    """Finds records by their names in `explain`: a path, or a member of a tar."""

    def __init__(self, root):
        root = pathlib.Path(root)
        self.folders = [p for p in (root, root / "train", root / "val", root.parent) if p.is_dir()]
        tars = sorted(root.glob("*.tar")) if root.is_dir() else [root]
        self.tars = {t.name: tarfile.open(t) for t in tars if tarfile.is_tarfile(t)} if tars else {}

    def read(self, name):
        for folder in self.folders:
            if (folder / name).is_file():
                return (folder / name).read_bytes()
        shard, _, member = name.replace(":", "/").partition(".tar/")
        shards = [f"{pathlib.PurePath(shard).name}.tar"] if member else list(self.tars)
        for shard in shards:
            tar = self.tars.get(shard)
            for candidate in tar.getnames() if tar else []:
                # The whole name, or the key of a record in WebDataset.
                plain = candidate.removeprefix("./")
                key, _, suffix = plain.partition(".")
                if plain == (member or name) or (key == (member or name) and suffix.lower() in PICTURES):
                    return tar.extractfile(candidate).read()
        raise SystemExit(f"{name}: not found among the files and tar members of the dataset")


def decode(dataset, sample, decoded):
    if decoded:
        image = Image.open(decoded / f"{sample['record']}.png")
    else:
        image = Image.open(io.BytesIO(dataset.read(sample["file"])))
    image = image.convert("RGB")
    if [image.height, image.width] != list(sample["size"]):
        raise SystemExit(f"{sample['file']}: {image.height}x{image.width}, but explain says {sample['size']}")
    return image


def replay(image, sample, size, options=None):
    """Computes a sample by timm's RandomResizedCropAndInterpolation, flip and RandAugment, or by its eval transform.

    With `options` of create_transform the whole of it runs, with the draws of the plan.
    """
    if options is not None:
        return np.asarray(transforms.replay(image, sample, size, options, augment))
    filter_ = sample["interpolation"]
    resized = sample.get("resized", [size, size])
    image = F.resized_crop(image, *sample["box"], list(resized), TORCHVISION[filter_])
    image = F.crop(image, *sample.get("window", [0, 0, size, size]))
    if sample.get("flip"):
        image = ImageOps.mirror(image)
    for op in sample.get("ops", []):
        image = augment(image, op)
    if mixture := sample.get("augmix"):
        image = aug_mix(image, mixture)
    return np.asarray(image)


def augment(image, op):
    """Applies an operation by timm's function, or by torchvision's."""
    if op.get("library") == "torchvision":
        transform = v2.TrivialAugmentWide(interpolation=op.get("interpolation") or "nearest")
        return transform._apply_image_or_video_transform(
            image, op["name"], op["arg"] or 0.0, interpolation=transform.interpolation, fill=transform._fill)
    args = [] if op["arg"] is None else [op["arg"]]
    if op["name"].startswith(("Posterize", "Solarize")):
        args = [int(a) for a in args]  # JSON may have 77.0 for timm's int 77
    return auto_augment.NAME_TO_OP[op["name"]](
        image, *args, fillcolor=FILL, resample=PILLOW[op.get("interpolation") or "bicubic"])


def aug_mix(image, mixture):
    """Applies timm's AugMixAugment with given weights and chains; the arithmetic is timm's."""
    chains = mixture["chains"]
    rest = iter(chains)
    chosen = lambda *_, **__: [lambda image, op=op: augment(image, op) for op in next(rest)["ops"]]
    kept, np.random.choice = np.random.choice, chosen
    try:
        transform = auto_augment.AugMixAugment([], width=len(chains), blended=mixture["kind"] == "blended")
        mix = transform._apply_blended if transform.blended else transform._apply_basic
        return mix(image, np.float32([chain["weight"] for chain in chains]), np.float32(mixture["weight"]))
    finally:
        np.random.choice = kept


class Given(mixup.FastCollateMixup):
    """timm's collate function with a given lambda and box; the arithmetic is timm's."""

    def __init__(self, mode, params, classes):
        super().__init__(mixup_alpha=1.0, cutmix_alpha=1.0, mode=mode, label_smoothing=0.0, num_classes=classes)
        self.params = params  # [(lambda, box or None)]: one in batch mode, one per pair, or one per sample

    def _params_per_batch(self):
        lam, box = self.params[0]
        return lam, box is not None

    def _params_per_elem(self, count):
        assert len(self.params) == count
        # A cut with an empty box has lambda 1, which timm does not mix either.
        return (np.array([lam for lam, _ in self.params], dtype=np.float32),
                np.array([box is not None for _, box in self.params]))

    def mix(self, pixels):
        """Mixes u8 pixels in NHWC layout."""
        boxes = iter([(lam, box) for lam, box in self.params if box is not None and (self.mode == "batch" or lam != 1.0)])

        def given(_shape, _lam, **_):
            lam, (top, bottom, left, right) = next(boxes)
            return (top, bottom, left, right), lam

        drawn, mixup.cutmix_bbox_and_lam = mixup.cutmix_bbox_and_lam, given
        try:
            samples = [(np.ascontiguousarray(p.transpose(2, 0, 1)), 0) for p in pixels]
            out, _ = self(samples)
        finally:
            mixup.cutmix_bbox_and_lam = drawn
        return out.numpy().transpose(0, 2, 3, 1)


def parameters(explain):
    """(timm's mode, [(lambda, box or None)]) of an explained microbatch, or None if no sample is mixed.

    In batch mode `mix` holds lambda and box. In pair and elem mode every sample has its own, as
    `lambda` and `mix_box`. A pair's are equal; mixing sample by sample then gives what timm's pair
    mode gives, because both read the unmixed pixels.
    """
    samples, whole = explain["samples"], explain.get("mix") or {}
    if any("mix_box" in s for s in samples):
        return "elem", [(s["lambda"], s["mix_box"]) for s in samples]
    if whole.get("mode", "none") == "none":
        return None
    return "batch", [(whole["lambda"], whole["box"])]


def check_box(lam, box, size):
    """timm's correction of lambda to the area outside of the box."""
    top, bottom, left, right = box
    want = 1.0 - (bottom - top) * (right - left) / float(size * size)
    return abs(want - lam) <= 1e-7


def compare(explain, dump, dataset, decoded, unmixed, options=None):
    samples = explain["samples"]
    size = dump["pixels"].shape[1]
    if len(samples) != len(dump["pixels"]):
        raise SystemExit(f"explain has {len(samples)} samples, the dump {len(dump['pixels'])}")
    pixels = np.stack([replay(decode(dataset, s, decoded), s, size, options) for s in samples])
    lambdas = np.ones(len(samples), dtype=np.float32)
    boxes_right = True
    if planned := parameters(explain):
        mode, params = planned
        boxes_right = all(check_box(lam, box, size) for lam, box in params if box)
        lambdas[:] = [np.float32(lam) for lam, _ in (params * len(samples) if mode == "batch" else params)]
    mixing = None if unmixed else planned
    if mixing:
        pixels = Given(mode, params, 2).mix(pixels)
    wrong = 0
    for k, sample in enumerate(samples):
        faults = [] if boxes_right else ["lambda is not what the box leaves"]
        different = int((pixels[k] != dump["pixels"][k]).sum())
        if different:
            largest = int(np.abs(pixels[k].astype(int) - dump["pixels"][k].astype(int)).max())
            faults.append(f"{different} of {pixels[k].size} values differ, by at most {largest}")
        partner = len(samples) - 1 - k
        if mixing and sample.get("partner") not in (None, partner):
            faults.append(f"partner {sample['partner']}, timm's is {partner}")
        b = samples[partner]["label"] if planned else sample["label"]
        for name, want in (("record", sample["record"]), ("label_a", sample["label"]), ("lambda", lambdas[k])):
            if dump[name][k] != want:
                faults.append(f"{name} {dump[name][k]}, not {want}")
        if lambdas[k] != 1.0 and dump["label_b"][k] != b:
            faults.append(f"label_b {dump['label_b'][k]}, not {b}")
        wrong += bool(faults)
        ops = " ".join(o["name"] for o in sample.get("ops", [])) or "no ops"
        print(f"{sample['slot']:4} {sample['file']} {ops}: {'; '.join(faults) or 'equal'}")
    mode = (explain.get("mix") or {}).get("mode", "none")
    print(f"{len(samples) - wrong} of {len(samples)} samples equal in every bit"
          f" ({'not mixed' if not mixing else mode}{', decoded pixels given' if decoded else ''})")
    return wrong == 0


def read_dump(path):
    with safe_open(path, "np") as file:
        return {key: file.get_tensor(key) for key in file.keys()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("--explain", type=pathlib.Path)
    parser.add_argument("--dump", type=pathlib.Path)
    parser.add_argument("--decoded", type=pathlib.Path, help="folder of <record>.png files, the decoder's output")
    parser.add_argument("--unmixed", action="store_true", help="the dump was made with --mix none")
    parser.add_argument("--self-test", action="store_true", help="compare this script with timm")
    args = parser.parse_args()
    if args.self_test:
        import self_test

        sys.exit(self_test.run())
    if not (args.dataset and args.explain and args.dump):
        parser.error("DATASET, --explain and --dump are needed")
    torch.set_num_threads(1)
    explain = json.loads(args.explain.read_text())
    same = compare(explain, read_dump(args.dump), Dataset(args.dataset), args.decoded, args.unmixed)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
