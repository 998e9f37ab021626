"""06_stats and 07_sampler: the distributions of timm's random draws, and its order of samples."""

import random

import numpy as np
import timm.data.auto_augment as aa
import timm.data.mixup as tm
import torch
from PIL import Image
from timm.data.distributed_sampler import OrderedDistributedSampler, RepeatAugSampler
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.utils.data import DistributedSampler

from common import summary, write_json
from pixels import ENHANCE, GEOMETRIC, INTEGER, ORDER

DRAWS = 50_000
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def central(width, height):
    """timm's box after ten failed tries."""
    if width / height < RATIO[0]:
        w, h = width, round(width / RATIO[0])
    elif width / height > RATIO[1]:
        w, h = round(height * RATIO[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def rrc(width, height):
    """Returns boxes and the fraction of fallbacks, for which timm draws no corner."""
    random.seed(width * 1000 + height)
    image = Image.new("RGB", (width, height))
    real, corners = random.randint, [0]

    def counted(low, high):
        corners[0] += 1
        return real(low, high)

    boxes, fallbacks = [], 0
    random.randint = counted
    try:
        for _ in range(DRAWS):
            before = corners[0]
            boxes.append(RandomResizedCropAndInterpolation.get_params(image, SCALE, RATIO))
            fallbacks += corners[0] == before
    finally:
        random.randint = real
    i, j, h, w = (np.array(column, dtype=np.float64) for column in zip(*boxes))
    area, aspect = h * w / (height * width), np.log(w / h)
    out = {"width": width, "height": height, "draws": DRAWS, "fallback_fraction": fallbacks / DRAWS,
           "fallback_box_i_j_h_w": list(central(width, height)) if fallbacks else None,
           "distinct_boxes": len(set(boxes)), "area_fraction": summary(area), "log_aspect_w_over_h": summary(aspect)}
    out |= {name: summary(v) for name, v in (("i", i), ("j", j), ("h", h), ("w", w))}
    out["i_over_free"] = summary(i / np.maximum(height - h, 1))
    out["j_over_free"] = summary(j / np.maximum(width - w, 1))
    with np.errstate(invalid="ignore"):
        out["corr_area_logaspect"] = float(np.nan_to_num(np.corrcoef(area, aspect)[0, 1]))
    return out


def randaug(config, seed):
    """Records the draws of timm's RandAugment, with its pixel functions replaced."""
    random.seed(seed)
    np.random.seed(seed)
    augment = aa.rand_augment_transform(config, {"translate_const": 100, "img_mean": (124, 116, 104)})
    applied, magnitudes, args = [], [], {op: [] for op in ORDER}

    def recorder(op, level):
        def level_to_arg(magnitude, hparams):
            magnitudes.append(magnitude)
            return level(magnitude, hparams)

        def function(image, *values, **_):
            applied.append(op.name)
            args[op.name].extend(values)
            return image

        op.aug_fn, op.level_fn = function, level and level_to_arg

    for op in augment.ops:
        recorder(op, op.level_fn)
    picked = np.zeros((15, 2))
    counts, twice = np.zeros(3), 0
    choice, chosen = np.random.choice, []
    aa.np.random.choice = lambda *a, **k: chosen.append(choice(*a, **k)) or chosen[-1]
    try:
        for _ in range(DRAWS):
            before = len(applied)
            augment(None)
            counts[len(applied) - before] += 1
            slots = [ORDER.index(op.name) for op in chosen.pop()]
            picked[slots, [0, 1]] += 1
            twice += slots[0] == slots[1]
    finally:
        aa.np.random.choice = choice
    times = {op: applied.count(op) for op in ORDER}
    out = {
        "draws": DRAWS,
        "ops": ORDER,
        "picked_fraction_per_slot": {op: (picked[k] / DRAWS).tolist() for k, op in enumerate(ORDER)},
        "applied_given_picked": {op: times[op] / picked[k].sum() for k, op in enumerate(ORDER)},
        "applied_count_distribution": (counts / DRAWS).tolist(),
        "same_op_twice": twice / DRAWS,
        "magnitude": summary(magnitudes),
        "magnitude_clipped_at_0": float(np.mean(np.array(magnitudes) == 0)),
        "magnitude_clipped_at_10": float(np.mean(np.array(magnitudes) == 10)),
        "arg_summary": {},
    }
    for op in [op for op in ORDER if op in GEOMETRIC + ENHANCE + INTEGER]:
        values = np.array(args[op], dtype=np.float64)
        out["arg_summary"][op] = {
            "summary": summary(values), "fraction_positive": float((values > 0).mean()),
            "fraction_negative": float((values < 0).mean()), "fraction_above_1": float((values > 1).mean())}
    bits = np.array(args["PosterizeIncreasing"])
    out["posterize_bits_hist"] = {str(b): float((bits == b).mean()) for b in range(5)}
    return out


def legacy_lam(size, lam, cy, cx):
    half = (size * np.sqrt(1 - lam)).astype(int) // 2
    sides = [np.clip(c + half, 0, size) - np.clip(c - half, 0, size) for c in (cy, cx)]
    return 1.0 - sides[0] * sides[1] / float(size * size)


def mix():
    np.random.seed(61)
    out = {"beta": {}, "cutmix": {}}
    for alpha in (0.1, 0.2, 1.0):
        lam = np.random.beta(alpha, alpha, 4 * DRAWS)
        small = lam.astype(np.float32)
        out["beta"][str(alpha)] = {
            "summary": summary(lam), "exact_mean": 0.5, "exact_var": 1 / (4 * (2 * alpha + 1)),
            "p_lt_1e_3": float((lam < 1e-3).mean()), "p_gt_1m1e_3": float((lam > 1 - 1e-3).mean()),
            "p_between_0p2_0p8": float(((lam > 0.2) & (lam < 0.8)).mean()),
            "p_f32_exactly_0": float((small == 0).mean()), "p_f32_exactly_1": float((small == 1).mean())}
    for size in (224, 160):
        lam = np.random.beta(1.0, 1.0, DRAWS)
        corrected = [tm.cutmix_bbox_and_lam((size, size), value)[1] for value in lam]
        cy, cx = np.random.randint(0, size, (2, DRAWS))
        out["cutmix"][str(size)] = {"corrected_lam_timm_1_0_31": summary(corrected),
                                    "corrected_lam_legacy": summary(legacy_lam(size, lam, cy, cx))}
    for recipe, alpha in (("A1", 0.2), ("A2", 0.1), ("A3", 0.1)):
        mixer = tm.Mixup(mixup_alpha=alpha, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode="batch")
        lam, cut = (np.array(column) for column in zip(*[mixer._params_per_batch() for _ in range(DRAWS)]))
        cut = cut.astype(bool)
        out[recipe] = {"mixup_alpha": alpha, "p_cutmix": float(cut.mean()),
                       "lam_given_mixup": summary(lam[~cut]), "lam_given_cutmix": summary(lam[cut])}
    return out


def stats(folder):
    sizes = ((500, 375), (375, 500), (224, 224), (30, 500), (500, 30), (64, 64))
    write_json(folder / "rrc.json", {f"{w}x{h}": rrc(w, h) for w, h in sizes})
    configs = ("rand-m7-mstd0.5-inc1", "rand-m6-mstd0.5-inc1")
    write_json(folder / "randaug.json", {c: randaug(c, 62 + k) for k, c in enumerate(configs)})
    write_json(folder / "mix.json", mix())
    write_json(folder / "other.json", {
        "hflip": {"rule": "torch.rand(1) < 0.5", "p": 0.5},
        "ra_interpolation": {
            "rule": "with --train-interpolation random: one of bilinear and bicubic at each op call and at each crop; "
                    "with a fixed one: always that", "p_bilinear": 0.5}})


def sampler(folder):
    perms = {}

    def perm(n, epoch, seed=0):
        key = f"n{n}_e{epoch}"
        generator = torch.Generator()
        generator.manual_seed(seed + epoch)
        perms[key] = torch.randperm(n, generator=generator).tolist()
        return key

    def indices(make, world, epoch=0):
        out = []
        for rank in range(world):
            one = make(rank)
            if hasattr(one, "set_epoch"):
                one.set_epoch(epoch)
            out.append([int(k) for k in one])
        return out

    repeat, distributed, ordered = [], [], []
    for n, epoch, repeats, worlds in ((300, 0, 3, (1, 2, 3, 4, 8)), (257, 1, 3, (1, 2, 4)), (200, 2, 3, (1, 3, 8)),
                                      (513, 0, 1, (2, 3)), (600, 0, 4, (4, 5)), (7, 0, 3, (2, 8))):
        for world in worlds:
            ranks = indices(lambda r: RepeatAugSampler(range(n), world, r, num_repeats=repeats), world, epoch)
            repeat.append({"n": n, "epoch": epoch, "perm": perm(n, epoch), "num_repeats": repeats, "world": world,
                           "num_samples_per_rank": len(ranks[0]), "indices_per_rank": ranks,
                           "distinct_images": len({k for rank in ranks for k in rank})})
    for n in (100, 103, 9):
        for world in (1, 2, 3, 4, 8):
            for drop in (False, True):
                ranks = indices(lambda r: DistributedSampler(range(n), world, r, seed=0, drop_last=drop), world, 7)
                distributed.append({"n": n, "world": world, "drop_last": drop, "perm": perm(n, 7), "indices_per_rank": ranks})
        for world in (1, 2, 3, 8):
            if n != 100:
                ordered.append({"n": n, "world": world,
                                "indices_per_rank": indices(lambda r: OrderedDistributedSampler(range(n), world, r), world)})
    n = 1_281_167
    length = {"n": n, "note": "updates per epoch with global batch 2048 and drop_last: 1281024 // 2048 = 625 (repeated aug); "
                              "plain DistributedSampler 1281167 -> 625", "repeat_aug": {}}
    for world in (1, 2, 4, 8, 16):
        per_rank = len(RepeatAugSampler(range(n), world, 0))
        length["repeat_aug"][str(world)] = {"per_rank": per_rank, "total": per_rank * world,
                                            "distinct_images_about": per_rank * world // 3}
    write_json(folder / "sampler.json", {"repeat_aug": repeat, "distributed": distributed, "ordered": ordered,
                                         "perms": perms, "imagenet_epoch_length": length})
