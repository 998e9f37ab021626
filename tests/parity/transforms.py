"""timm's own `create_transform` with the draws of a plan instead of its own, for one sample of `forebay explain`."""

import contextlib
import math
from unittest import mock

import torch
import torchvision.transforms._functional_tensor as tensor
from timm.data import create_transform
from timm.data import transforms as timm_transforms
from torchvision import transforms
from torchvision.transforms import functional as F

JITTER = ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue")


def correct_kernel(size, sigma, dtype, device):
    """torchvision's weights with an exponential that is rounded correctly, where MKL's sometimes is not."""
    half = (size - 1) * 0.5
    x = torch.linspace(-half, half, steps=size, dtype=dtype, device=device)
    pdf = torch.exp((-0.5 * (x / sigma).pow(2)).double()).to(dtype)
    return pdf / pdf.sum()


def sample_transforms(sample, size, options):
    """The transforms before and after RandAugment. `options` are those of create_transform, or of a simple random crop."""
    if "crop_pct" in options:
        evaluation = create_transform(size, interpolation=sample["interpolation"], use_prefetcher=True, **options)
        return transforms.Compose(evaluation.transforms[:-1]), None
    ops = {op["name"]: op["arg"] for op in sample["color"]}
    jitter = [op for op in ops if op in JITTER]
    primary, secondary, _ = create_transform(
        size, is_training=True, separate=True, use_prefetcher=True, interpolation=sample["interpolation"],
        hflip=float(sample["flip"]), vflip=float(sample["vflip"]),
        color_jitter=[float(name in ops) * 0.4 for name in JITTER] if jitter else None,
        grayscale_prob=float("rgb_to_grayscale" in ops), gaussian_blur_prob=float("gaussian_blur" in ops),
        train_crop_mode=options.get("train_crop_mode"))
    if "simple" in options:
        resize, padding = options["simple"]
        mode = timm_transforms.str_to_interp_mode(sample["interpolation"])
        crop = [transforms.Resize(resize, mode), transforms.RandomCrop(size, padding=padding, padding_mode="reflect")]
        primary = transforms.Compose(crop + primary.transforms[1:])
    return primary, secondary


@contextlib.contextmanager
def drawn(sample, options):
    """While it is entered, timm and torchvision draw what the plan has drawn."""
    top, left, *_ = sample["window"]
    above, before = (sample["padding"] or {"top": 0, "left": 0})["top"], (sample["padding"] or {"left": 0})["left"]
    place = (top - above, left - before)
    ops = {op["name"]: op["arg"] for op in sample["color"]}
    order = torch.tensor([JITTER.index(op["name"]) for op in sample["color"] if op["name"] in JITTER])
    shift = options.get("simple", (0, 0))[1]
    draws = [
        (timm_transforms.RandomResizedCropAndInterpolation, "get_params", tuple(sample["box"])),
        (timm_transforms.RandomCropOrPad, "get_params", place),
        (transforms.RandomCrop, "get_params", (place[0] + shift, place[1] + shift, *[sample["side"]] * 2)),
        (transforms.ColorJitter, "get_params", (order, *[ops.get(name) for name in JITTER])),
        (transforms.GaussianBlur, "get_params", ops.get("gaussian_blur")),
    ]
    if options.get("train_crop_mode"):
        draws.append((timm_transforms.ResizeKeepRatio, "get_params", list(sample["resized"])))
    with contextlib.ExitStack() as stack:
        for owner, name, value in draws:
            stack.enter_context(mock.patch.object(owner, name, staticmethod(lambda *_, value=value: value)))
        stack.enter_context(mock.patch.object(tensor, "_get_gaussian_kernel1d", correct_kernel))
        yield


def crop_pct(size, resize):
    """A share that timm's floor(size / share) makes `resize` of."""
    share = size / (resize + 0.5)
    assert math.floor(size / share) == resize
    return share


def replay(image, sample, size, options, augment):
    """The picture as timm's transforms make it. `augment` applies one of RandAugment's operations."""
    options, sample = dict(options), {**sample, "side": size}
    if "resize" in options:
        options["crop_pct"] = crop_pct(size, options.pop("resize"))
    primary, secondary = sample_transforms(sample, size, options)
    with drawn(sample, options):
        image = primary(image)
        for op in sample["ops"]:
            image = augment(image, op)
        return secondary(image) if secondary else image
