"""Loaders for timm's `train.py`.

Replace its two calls of `create_loader` by one line:

    loader_train, loader_eval = forebay.timm.create_loaders(args, data_config, device=device)

Its arguments become recipes. What forebay cannot do is refused, by the name of the argument. Everything else
of the script stays, also `mixup_fn`, which must be None: forebay mixes, as timm's prefetcher does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from . import _forebay
from ._errors import OptionsError
from ._loader import Loader as _Core
from ._source import Source, endpoints_of, is_url, parts_of
from .torch import Dataset
from .torch import Loader as _Loader

_SPLITS = [("train", "training"), ("val", "valid", "validation", "eval", "evaluation")]
_DEFAULT_RATIO = (3.0 / 4.0, 4.0 / 3.0)
_FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos", "random")
_CROPS = {"rrc": "random-resized", "rkrc": "keep-ratio-center", "rkrr": "keep-ratio-random"}


def create_loaders(
    args: Any,
    data_config: Mapping[str, Any],
    *,
    device: torch.device | str = "cpu",
    source: Source | None = None,
    eval_source: Source | None = None,
    **options: Any,
) -> tuple[Loader, Loader | None]:
    """The loader for training and that for evaluation.

    Args:
        args: The arguments of `train.py`.
        data_config: What `timm.data.resolve_data_config` returned.
        device: The device of the tensors.
        source, eval_source: Servers, or other datasets, instead of the splits of `--data-dir`. With servers, name
            the datasets by `--train-split` (by default `train`) and `--val-split` (`validation`, as in timm).
        options: Other arguments of `forebay.Loader` for both.

    Raises:
        OptionsError: If an argument stands for what forebay cannot do.
    """
    for name, what in [("dataset", "two, which servers have under"), ("split", "two, which are those of")]:
        if name in options:
            raise OptionsError(f"invalid {name}: there are {what} --train-split and --val-split")
    dtype = getattr(torch, _get(args, "model_dtype", None) or "float32")
    world, rank = int(_get(args, "world_size", 1)), int(_get(args, "rank", 0))
    layout = "nhwc" if _get(args, "channels_last", False) else "nchw"
    common: dict[str, Any] = dict(
        device=device, dtype=dtype, layout=layout, rank=rank, world=world, seed=_get(args, "seed", 42), **options
    )
    sources = [(source, "train_split", "train"), (eval_source, "val_split", "validation")]
    (train, train_options), (evaluation, eval_options) = (
        _source(args, given, _get(args, split, default)) for given, split, default in sources
    )
    recipe = train_recipe(args, data_config)
    is_mixing = _is_mixing(args)
    loader_train = Loader(
        train,
        recipe=recipe,
        **train_options,
        targets="dense" if is_mixing else "index",
        num_classes=_get(args, "num_classes", None),
        is_mixing=is_mixing,
        **common,
    )
    if not _get(args, "val_split", "validation"):
        return loader_train, None
    loader_eval = Loader(
        evaluation,
        recipe=eval_recipe(args, data_config),
        **eval_options,
        targets="index",
        base="eval",
        **common,
    )
    steps = loader_eval.loader.describe()["steps_per_epoch"]
    if len(loader_eval) != steps:
        loader_train.close()
        loader_eval.close()
        raise OptionsError(
            f"--validation-batch-size: the last step of the evaluation has no image for rank {rank}, which "
            "would wait for the others forever; choose another size"
        )
    return loader_train, loader_eval


class Loader(_Loader):
    """A loader with what `train.py` touches, such as `mixup_enabled`."""

    def __init__(
        self,
        source: Source,
        *,
        recipe: dict[str, object],
        base: str = "a2",
        is_mixing: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(source, recipe=base, set=recipe, **options)
        # The one with the other setting of `mixup_enabled`, once it was used.
        self._other: _Core | None = None
        self._is_mixing, self._mixup_enabled = is_mixing, is_mixing

    @property
    def mixup_enabled(self) -> bool:
        """Whether images are mixed. `train.py` turns it off after `--mixup-off-epoch`.

        It takes effect at the next pass. Targets stay dense, as those of timm's collate function do.
        """
        return self._mixup_enabled

    @mixup_enabled.setter
    def mixup_enabled(self, is_enabled: bool) -> None:
        if is_enabled and not self._is_mixing:
            raise OptionsError("mixup_enabled: neither --mixup nor --cutmix is set")
        if is_enabled == self._mixup_enabled:
            return
        if self._other is None:
            self._other = self.loader.changed({"mix.mixup": 0.0, "mix.cutmix": 0.0})
        self._other.follow(self.loader)
        self.loader, self._other = self._other, self.loader
        self._mixup_enabled = is_enabled

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """As `forebay.Loader.state_dict`, with `mixup_enabled`."""
        return {**super().state_dict(), "mixup_enabled": self._mixup_enabled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `forebay.Loader.load_state_dict`."""
        self.mixup_enabled = bool(state.get("mixup_enabled", self._mixup_enabled))
        super().load_state_dict(state)

    def close(self) -> None:
        """As `forebay.Loader.close`."""
        super().close()
        if self._other is not None:
            self._other.close()


def train_recipe(args: Any, data_config: Mapping[str, Any]) -> dict[str, object]:
    """The recipe of the arguments of `train.py`, as changes to `a2`.

    Raises:
        OptionsError: If an argument stands for what forebay cannot do.
    """
    _refuse(args)
    world = int(_get(args, "world_size", 1))
    recipe: dict[str, object] = {
        **_common(args, data_config),
        # Each process mixes its own batch, so that a microbatch is the batch of a process.
        "batch": int(args.batch_size) * world,
        "microbatches": world,
        "repeats": max(int(_get(args, "aug_repeats", 0)), 1),
        "smoothing": float(_get(args, "smoothing", 0.1)),
    }
    if _get(args, "no_aug", False):
        # timm's transforms_noaug_train: resize and center crop.
        size = _size(data_config)
        crop: dict[str, object] = {"kind": "center", "resize": size}
        recipe |= {"crop": crop, "flip": 0.0, "randaugment.ops": 0}
        recipe["interpolation"] = _interpolation(args, data_config, "interpolation")
        if recipe["interpolation"] == "random":
            recipe["interpolation"] = "bilinear"
    else:
        scale = _pair(args, "scale", (0.08, 1.0))
        ratio = _pair(args, "ratio", _DEFAULT_RATIO)
        recipe |= {
            "crop": {"kind": _train_crop(args), "scale": scale, "ratio": ratio},
            "flip": float(_get(args, "hflip", 0.5)),
            "vflip": float(_get(args, "vflip", 0.0)),
            **_color(args),
            "interpolation": _interpolation(args, data_config, "train_interpolation"),
            **_auto_augment(_get(args, "aa", None)),
        }
    mixup, cutmix = float(_get(args, "mixup", 0.0)), float(_get(args, "cutmix", 0.0))
    recipe |= {
        "mix.mode": _get(args, "mixup_mode", "batch"),
        "mix.mixup": mixup,
        "mix.cutmix": cutmix,
        "mix.probability": float(_get(args, "mixup_prob", 1.0)) if _is_mixing(args) else 1.0,
        "mix.switch": float(_get(args, "mixup_switch_prob", 0.5)),
    }
    return recipe


def eval_recipe(args: Any, data_config: Mapping[str, Any]) -> dict[str, object]:
    """The recipe of the evaluation of `train.py`, as changes to `eval`."""
    world = int(_get(args, "world_size", 1))
    size = _size(data_config)
    crop_pct = float(data_config.get("crop_pct") or 0.875)
    mode = data_config.get("crop_mode") or "center"
    if mode not in ("center", "squash", "border"):
        raise OptionsError(f"crop_mode {mode!r} of the model: forebay has center, squash and border")
    batch = int(_get(args, "validation_batch_size", None) or args.batch_size)
    return {
        **_common(args, data_config),
        "batch": batch * world,
        "microbatches": world,
        # As timm rounds.
        "crop": {"kind": mode, "resize": int(size / crop_pct)},
        "interpolation": _interpolation(args, data_config, "interpolation"),
    }


def _refuse(args: Any) -> None:
    """Refuses what forebay cannot do."""
    refused = {
        "--no-prefetcher": _get(args, "no_prefetcher", False),
        "--reprob": _get(args, "reprob", 0.0),
        "--aug-splits": _get(args, "aug_splits", 0),
        "--jsd-loss": _get(args, "jsd_loss", False),
        "--cutmix-minmax": _get(args, "cutmix_minmax", None),
        "--naflex-loader": _get(args, "naflex_loader", False),
        "--train-img-sizes": _get(args, "train_img_sizes", None),
        "--epoch-repeats": _get(args, "epoch_repeats", 0.0),
        "--class-map": _get(args, "class_map", ""),
        "--train-num-samples": _get(args, "train_num_samples", None),
        "--dataset-download": _get(args, "dataset_download", False),
    }
    if _get(args, "dataset", "") not in ("", "folder"):
        refused["--dataset"] = args.dataset
    repeats = float(_get(args, "aug_repeats", 0))
    if repeats != int(repeats):
        refused["--aug-repeats"] = repeats
    for name, value in refused.items():
        if value:
            raise OptionsError(f"{name} {value}: forebay cannot do this; leave it out")


def _common(args: Any, data_config: Mapping[str, Any]) -> dict[str, object]:
    return {
        "image_size": _size(data_config),
        "mean": [float(value) for value in data_config["mean"]],
        "std": [float(value) for value in data_config["std"]],
    }


def _size(data_config: Mapping[str, Any]) -> int:
    channels, height, width = data_config["input_size"]
    if channels != 3 or height != width:
        raise OptionsError(
            f"--input-size {channels} {height} {width}: forebay makes square images of 3 channels"
        )
    return int(height)


def _interpolation(args: Any, data_config: Mapping[str, Any], name: str) -> str:
    value = str(data_config["interpolation"])
    if name == "train_interpolation" and not _get(args, "no_aug", False):
        # As train.py: without augmentation or a value, that of the model.
        value = _get(args, name, "random") or value
    if value not in _FILTERS:
        raise OptionsError(f"--{name.replace('_', '-')} {value}: expected one of {', '.join(_FILTERS)}")
    return value


def _train_crop(args: Any) -> str:
    mode = _get(args, "train_crop_mode", None) or "rrc"
    if mode not in _CROPS:
        raise OptionsError(f"--train-crop-mode {mode}: expected one of {', '.join(_CROPS)}")
    return _CROPS[mode]


def _color(args: Any) -> dict[str, object]:
    """Color operations. As in timm, a policy other than those of 3-Augment turns the jitter off."""
    jitter = _get(args, "color_jitter", None)
    probability = _get(args, "color_jitter_prob", None)
    recipe: dict[str, object] = {
        "color.grayscale": float(_get(args, "grayscale_prob", None) or 0.0),
        "color.blur": float(_get(args, "gaussian_blur_prob", None) or 0.0),
    }
    policy = _get(args, "aa", None)
    if jitter is not None and (not policy or "3a" in policy):
        several = isinstance(jitter, (list, tuple))
        recipe["color.jitter"] = [float(value) for value in jitter] if several else float(jitter)
        recipe["color.probability"] = 1.0 if probability is None else float(probability)
    return recipe


def _auto_augment(text: str | None) -> dict[str, object]:
    """timm's policy, which a recipe has in timm's notation."""
    return {"auto_augment": text or "none"}


def _is_mixing(args: Any) -> bool:
    return float(_get(args, "mixup", 0.0)) > 0 or float(_get(args, "cutmix", 0.0)) > 0


def _pair(args: Any, name: str, default: tuple[float, float]) -> list[float]:
    low, high = _get(args, name, None) or default
    return [float(low), float(high)]


def _source(args: Any, given: Source | None, split: str) -> tuple[Source, dict[str, Any]]:
    """Servers with the name of a dataset, or the split of `--data-dir`: a folder, as timm finds it, or a part."""
    if given is not None:
        return given, {} if endpoints_of(given) is None else {"dataset": split}
    root = _get(args, "data_dir", None) or _get(args, "data", None)
    if not root:
        raise OptionsError("--data-dir is missing: expected the folder of the dataset, or source=")
    root = str(root)
    if not is_url(root):
        root = os.path.expanduser(root)
        names = next((names for names in _SPLITS if split in names), (split,))
        for name in (split, *names):
            if os.path.isdir(os.path.join(root, name)):
                return os.path.join(root, name), {}
    (part,) = parts_of(root, split)
    # As for timm, all of a folder without splits is each of them.
    return root, {} if _forebay.Datasets().lacks_splits(part.path) else {"split": split}


def _get(args: Any, name: str, default: Any) -> Any:
    return getattr(args, name, default)


__all__ = ["Dataset", "Loader", "create_loaders", "eval_recipe", "train_recipe"]
