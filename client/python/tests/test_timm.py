"""timm's arguments as recipes, and its own functions on forebay's batches."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

import forebay
from conftest import Server, write_tars

torch = pytest.importorskip("torch")
timm_data = pytest.importorskip("timm.data")
import timm.loss  # noqa: E402

import forebay.timm as ft  # noqa: E402

CONFIG: dict[str, Any] = {
    "input_size": (3, 64, 64),
    "interpolation": "bicubic",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.25),
    "crop_pct": 0.95,
    "crop_mode": "center",
}


def arguments(**given: Any) -> argparse.Namespace:
    """The arguments that train.py has by default, with others."""
    defaults = dict(
        data_dir=None, data=None, dataset="", train_split="train", val_split="validation", batch_size=16,
        validation_batch_size=None, no_aug=False, train_crop_mode=None, scale=[0.08, 1.0], ratio=[0.75, 4 / 3],
        hflip=0.5, vflip=0.0, color_jitter=0.4, color_jitter_prob=None, grayscale_prob=None,
        gaussian_blur_prob=None, aa=None, aug_repeats=0, aug_splits=0, jsd_loss=False, reprob=0.0, mixup=0.0,
        cutmix=0.0, cutmix_minmax=None, mixup_prob=1.0, mixup_switch_prob=0.5, mixup_mode="batch",
        smoothing=0.1, train_interpolation="random", channels_last=False, model_dtype=None, seed=42,
        num_classes=4, world_size=1, rank=0, no_prefetcher=False, prefetcher=True, naflex_loader=False,
    )
    return argparse.Namespace(**{**defaults, **given})


A2 = dict(
    aa="rand-m7-mstd0.5-inc1", aug_repeats=3, mixup=0.1, cutmix=1.0, smoothing=0.0, train_interpolation="bicubic",
)


def test_the_arguments_of_the_paper_are_its_recipe(server: Server) -> None:
    config = {**CONFIG, "input_size": (3, 224, 224), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    recipe = ft.train_recipe(arguments(**A2, batch_size=256, world_size=8), config)
    changes = {"batch": 128, "microbatches": 8}
    own, preset = (
        forebay.Loader(server.endpoint, dataset="train", recipe="a2", set={**recipe_changes, **changes})
        for recipe_changes in (recipe, {})
    )
    with own, preset:
        assert own.describe()["recipe_digest"] == preset.describe()["recipe_digest"]


@pytest.mark.parametrize("aa", ["rand-m9-n3-mstd0.5", "original-mstd0.5", "augmix-m5-w4-d2"])
def test_policies_are_in_timms_notation(server: Server, aa: str) -> None:
    recipe = ft.train_recipe(arguments(aa=aa), CONFIG)
    with forebay.Loader(server.endpoint, dataset="train", recipe="a2", set=recipe) as loader:
        assert f'auto_augment = "{aa}"' in loader.describe()["recipe"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"reprob": 0.25}, "--reprob 0.25"),
        ({"aug_splits": 3}, "--aug-splits 3"),
        ({"jsd_loss": True}, "--jsd-loss"),
        ({"cutmix_minmax": [0.2, 0.8]}, "--cutmix-minmax"),
        ({"no_prefetcher": True}, "--no-prefetcher"),
        ({"train_crop_mode": "rkr"}, "--train-crop-mode rkr: expected one of rrc, rkrc, rkrr"),
        ({"aug_repeats": 1.5}, "--aug-repeats 1.5"),
        ({"train_interpolation": "cubic"}, "--train-interpolation cubic"),
        ({"dataset": "tfds/imagenet"}, "--dataset tfds/imagenet"),
    ],
)
def test_what_forebay_cannot_do_is_refused_by_name(given: dict[str, Any], says: str) -> None:
    with pytest.raises(forebay.OptionsError, match=says):
        ft.train_recipe(arguments(**{"color_jitter": 0.0, **given}), CONFIG)


def test_sizes_and_crops_that_forebay_does_not_have_are_refused() -> None:
    for config, says in [
        ({**CONFIG, "input_size": (3, 64, 32)}, "--input-size 3 64 32"),
        ({**CONFIG, "crop_mode": "fit"}, "fit"),
        ({**CONFIG, "interpolation": "cubic"}, "cubic"),
    ]:
        with pytest.raises(forebay.OptionsError, match=says):
            ft.eval_recipe(arguments(), config)


def test_other_crops_flips_and_colors_become_fields_of_the_recipe() -> None:
    given = dict(
        train_crop_mode="rkrc", vflip=0.5, color_jitter=[0.4, 0.3, 0.2, 0.1], color_jitter_prob=0.8,
        grayscale_prob=0.2, gaussian_blur_prob=0.1, train_interpolation="lanczos",
    )
    recipe = ft.train_recipe(arguments(**given), CONFIG)
    expected = {
        "crop": {"kind": "keep-ratio-center", "scale": [0.08, 1.0], "ratio": [0.75, 4 / 3]}, "vflip": 0.5,
        "color.jitter": [0.4, 0.3, 0.2, 0.1], "color.probability": 0.8, "color.grayscale": 0.2, "color.blur": 0.1,
        "interpolation": "lanczos",
    }
    assert {name: recipe[name] for name in expected} == expected
    # timm's default is a jitter, which a policy turns off.
    assert ft.train_recipe(arguments(), CONFIG)["color.jitter"] == 0.4
    assert "color.jitter" not in ft.train_recipe(arguments(aa="rand-m7-mstd0.5-inc1"), CONFIG)
    for mode in ("squash", "border"):
        crop = ft.eval_recipe(arguments(), {**CONFIG, "crop_mode": mode})["crop"]
        assert crop == {"kind": mode, "resize": int(CONFIG["input_size"][1] / 0.95)}


def test_timms_losses_take_the_targets_of_each_mode(data: Path) -> None:
    for given, shape in [(A2, (16, 4)), ({"aa": "rand-m7-mstd0.5-inc1"}, (16,))]:
        train, evaluation = ft.create_loaders(arguments(data_dir=str(data), **given), CONFIG, threads=1)
        assert evaluation is not None
        with train, evaluation:
            assert train.mixup_enabled == ("mixup" in given)
            assert repr(train).startswith("<forebay.timm.Loader of 128 records in 4 classes: ")
            images, targets = next(iter(train))
            assert images.shape == (16, 3, 64, 64) and images.dtype == torch.float32
            assert images.is_contiguous()
            assert targets.shape == shape
            logits = torch.zeros(16, 4)
            losses = [timm.loss.BinaryCrossEntropy(smoothing=0.1)]
            losses += [timm.loss.SoftTargetCrossEntropy()] if len(shape) == 2 else [
                timm.loss.LabelSmoothingCrossEntropy(0.1)
            ]
            assert all(bool(loss(logits, targets).isfinite()) for loss in losses)
            # As train.py sets the epoch.
            assert not hasattr(train.dataset, "set_epoch") and not hasattr(train.batch_sampler, "set_epoch")
            train.sampler.set_epoch(5)
            assert train.loader.epoch == 5
            labels = torch.cat([labels for _, labels in evaluation])
            assert labels.dtype == torch.int64 and labels.tolist() == sorted(labels.tolist())


def test_an_evaluation_equals_timms_own_loader(data: Path) -> None:
    args = arguments(data_dir=str(data), aa="rand-m7-mstd0.5-inc1")
    train, evaluation = ft.create_loaders(args, CONFIG, threads=1)
    assert evaluation is not None
    own = timm_data.create_loader(
        timm_data.create_dataset("", root=str(data), split="validation"),
        input_size=CONFIG["input_size"], batch_size=16, is_training=False, device=torch.device("cpu"),
        interpolation="bicubic", mean=CONFIG["mean"], std=CONFIG["std"], crop_pct=0.95, num_workers=0,
    )
    with train, evaluation:
        assert len(evaluation) == len(own)
        for (images, labels), (expected, expected_labels) in zip(evaluation, own, strict=True):
            assert labels.tolist() == expected_labels.tolist()
            assert torch.equal(images, expected)


def test_mixing_is_turned_off_after_an_epoch(data: Path) -> None:
    train, evaluation = ft.create_loaders(arguments(data_dir=str(data), **{**A2, "aug_repeats": 0}), CONFIG, threads=1)
    assert evaluation is not None
    evaluation.close()
    with train:
        first = [targets for _, targets in train]
        assert any(bool((targets.max(1).values < 1).any()) for targets in first)
        train.mixup_enabled = False
        for _ in range(2):
            for _, targets in train:
                # Dense as before, as timm's collate function makes them.
                assert targets.shape == (16, 4) and bool((targets.max(1).values == 1).all())
        assert train.loader.epoch == 3
        batches = iter(train)
        for _ in range(3):
            next(batches)
        # A state has what is mixed.
        state = train.state_dict()
        rest = [targets for _, targets in batches]
        train.mixup_enabled = True
        train.load_state_dict(state)
        assert not train.mixup_enabled
        assert all(torch.equal(one, two) for one, (_, two) in zip(rest, train, strict=True))
        train.mixup_enabled = True
        assert train.loader.epoch == 4
        assert len(list(train)) == len(first)
        # The seed is that of a state, whatever is mixed.
        train.load_state_dict({**state, "seed": 9})
        train.mixup_enabled = True
        assert train.loader.state_dict()["seed"] == 9


def test_an_evaluation_that_would_leave_a_rank_waiting_is_refused(data: Path) -> None:
    # 20 images: the last step has 2 for 3 ranks.
    args = arguments(
        data_dir=str(data), aa="rand-m7-mstd0.5-inc1", world_size=3, rank=2, validation_batch_size=3, batch_size=12
    )
    with pytest.raises(forebay.OptionsError, match="--validation-batch-size"):
        ft.create_loaders(args, CONFIG, threads=1)


def test_splits_of_one_folder_are_those_of_the_arguments(data: Path, tmp_path: Path) -> None:
    for split, of_timm in [("train", "train"), ("val", "validation")]:
        write_tars(data / split, tmp_path / "tars", f"imagenet1k-{of_timm}-{{}}.tar")
    args = arguments(data_dir=str(tmp_path / "tars"), aa="rand-m7-mstd0.5-inc1")
    train, evaluation = ft.create_loaders(args, CONFIG, threads=1)
    assert evaluation is not None
    with train, evaluation:
        assert [loader.describe()["records"] for loader in (train, evaluation)] == [128, 20]
    args = arguments(data_dir=str(tmp_path / "tars"), aa="rand-m7-mstd0.5-inc1", val_split="test")
    with pytest.raises(forebay.DatasetError, match='no split "test"; it has train, validation'):
        ft.create_loaders(args, CONFIG, threads=1)
    with pytest.raises(forebay.OptionsError, match="invalid split: there are two, .* --train-split and --val-split"):
        ft.create_loaders(args, CONFIG, split="val")


def test_a_folder_without_splits_is_each_of_them(data: Path) -> None:
    train, evaluation = ft.create_loaders(arguments(data_dir=str(data / "train"), color_jitter=0), CONFIG, threads=1)
    assert evaluation is not None
    with train, evaluation:
        assert train.describe()["dataset_digest"] == evaluation.describe()["dataset_digest"]
