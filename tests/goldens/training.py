"""08_optim, 09_loss, 11_droppath: timm's LAMB, learning rates, losses and stochastic depth."""

import numpy as np
import timm
import torch
from safetensors.numpy import save_file
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import Lamb
from timm.scheduler import CosineLRScheduler

import optimizers
from common import write_json

STEPS = 6
SHAPES = {"matrix": (4, 3), "conv": (2, 3, 3, 3), "bias": (3,), "zero_matrix": (2, 3), "gamma": (4,)}
DECAYED = ("matrix", "conv", "zero_matrix")
VARIANTS = {
    "default": {},
    "no_clip": {"max_grad_norm": None},
    "always_adapt": {"always_adapt": True},
    "trust_clip": {"trust_clip": True},
    "clip_0p1": {"max_grad_norm": 0.1},
    "no_bias_correction": {"bias_correction": False},
    "no_grad_averaging": {"grad_averaging": False},
    "betas_eps": {"betas": [0.8, 0.95], "eps": 1e-4},
}


def gradients(rng):
    """Gradients of very different norms; one step has all zeros."""
    scales = (0.02, 0.3, 1.0, 20.0, 0.0, 3.0)
    for scale in scales:
        yield {name: (rng.normal(0, 1, shape) * scale).astype(np.float32) for name, shape in SHAPES.items()}


def lamb_run(init, grads, lrs, kwargs, dtype):
    """Returns the parameters after each step, and the moments after the last one."""
    params = {name: torch.nn.Parameter(torch.from_numpy(v.copy()).to(dtype)) for name, v in init.items()}
    kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
    decay = kwargs.pop("weight_decay")
    groups = [{"params": [params[n] for n in SHAPES if n in DECAYED], "weight_decay": decay},
              {"params": [params[n] for n in SHAPES if n not in DECAYED], "weight_decay": 0.0}]
    optimizer = Lamb(groups, lr=lrs[0], **kwargs)
    out = {}
    for step, (lr, grad) in enumerate(zip(lrs, grads)):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, p in params.items():
            p.grad = torch.from_numpy(grad[name].copy()).to(dtype)
        optimizer.step()
        out |= {f"{step:02}.{name}": p.detach().numpy().copy() for name, p in params.items()}
    for name, p in params.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            out[f"{moment}.{name}"] = optimizer.state[p][moment].numpy().copy()
    return out


def rates(epochs, lr, warmup_lr, min_lr, updates):
    """The learning rates of timm's train script by epoch, or by update with `updates` per epoch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    per = updates or 1
    schedule = CosineLRScheduler(optimizer, t_initial=epochs * per, lr_min=min_lr, warmup_t=5 * per,
                                 warmup_lr_init=warmup_lr, t_in_epochs=not updates)
    out = [optimizer.param_groups[0]["lr"]]
    for t in range(1, epochs * per + 1):
        schedule.step_update(t) if updates else schedule.step(t)
        out.append(optimizer.param_groups[0]["lr"])
    return out[:-1], out[-1]


def optim(folder):
    rng = np.random.default_rng(80)
    init = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in SHAPES.items()}
    init["zero_matrix"][:] = 0
    grads = list(gradients(rng))
    lrs = rates(20, 0.005, 1e-6, 0.0, 0)[0][:STEPS]
    arrays = {f"init.{name}": v for name, v in init.items()}
    arrays |= {f"grad.{k:02}.{name}": v for k, grad in enumerate(grads) for name, v in grad.items()}
    variants = {}
    for name, changes in VARIANTS.items():
        kwargs = changes | {"weight_decay": 0.02}
        both = {tag: lamb_run(init, grads, lrs, dict(kwargs), dtype)
                for tag, dtype in (("f32", torch.float32), ("f64", torch.float64))}
        arrays |= {f"{name}.{tag}.{key}": v for tag, run in both.items() for key, v in run.items()}
        apart = max(float(np.abs(both["f32"][k] - both["f64"][k]).max()) for k in both["f32"] if k[0].isdigit())
        variants[name] = {"kwargs": kwargs, "max_abs_diff_f32_vs_f64": apart}
    write_json(folder / "lamb.json", {
        "steps": STEPS, "lr": lrs,
        "params": {n: {"shape": list(s), "weight_decay_group": "wd" if n in DECAYED else "none"} for n, s in SHAPES.items()},
        "defaults": {"betas": [0.9, 0.999], "eps": 1e-6, "weight_decay": 0.02, "max_grad_norm": 1.0, "bias_correction": True,
                     "grad_averaging": True, "trust_clip": False, "always_adapt": False},
        "layout": f"<variant>.<f32|f64>.<step 00..{STEPS - 1:02}>.<param> = value after that step; "
                  "<variant>.<dtype>.exp_avg.<param> and exp_avg_sq = after the last step",
        "variants": variants,
        "global_grad_norm": [float(np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grad.values()))) for grad in grads]})
    save_file(arrays, folder / "lamb.safetensors")
    optimizers.trajectories(folder, init, grads, lrs)

    schedules = {}
    recipes = {"A1": (600, 0.005), "A2": (300, 0.005), "A3": (100, 0.008)}
    for recipe, warmup_lr, min_lr, updates in (("A1", 1e-6, 0.0, 0), ("A2", 1e-6, 1e-6, 0), ("A3", 1e-6, 0.0, 0),
                                               ("A3", 1e-6, 0.0, 3), ("A3", 1e-4, 1e-6, 0), ("A3", 1e-4, 1e-6, 3)):
        epochs, lr = recipes[recipe]
        values, last = rates(epochs, lr, warmup_lr, min_lr, updates)
        key = f"{recipe}_warmup{warmup_lr}_min{min_lr or 0}_{'update' if updates else 'epoch'}"
        schedules[key] = {
            "recipe": recipe, "epochs": epochs, "lr": lr, "warmup_epochs": 5, "warmup_lr": warmup_lr, "min_lr": min_lr,
            "stepping": "per update (--sched-on-updates)" if updates else "per epoch (timm train.py default; lr constant inside an epoch)",
            "updates_per_epoch": updates or None, "lr_per_epoch": None if updates else values,
            "lr_per_update": values if updates else None, "lr_after_last": last}
    write_json(folder / "schedule.json", schedules)
    optimizers.schedules(folder)


INDEX_LOSSES = {
    "bce": lambda: BinaryCrossEntropy(smoothing=0.0),
    "bce_thr0p2": lambda: BinaryCrossEntropy(smoothing=0.0, target_threshold=0.2),
    "bce_thr0": lambda: BinaryCrossEntropy(smoothing=0.0, target_threshold=0.0),
    "bce_sum": lambda: BinaryCrossEntropy(smoothing=0.0, sum_classes=True),
    "bce_sum_thr0p2": lambda: BinaryCrossEntropy(smoothing=0.0, target_threshold=0.2, sum_classes=True),
    "bce_s0p1": lambda: BinaryCrossEntropy(smoothing=0.1),
    "bce_s0p1_thr0p2": lambda: BinaryCrossEntropy(smoothing=0.1, target_threshold=0.2),
    "ls_ce_0p1": lambda: LabelSmoothingCrossEntropy(0.1),
    "ce": torch.nn.CrossEntropyLoss,
}
DENSE_LOSSES = {k: v for k, v in INDEX_LOSSES.items() if "s0p1" not in k and "ce_0p1" not in k and k != "ce"}
DENSE_LOSSES |= {"soft_ce": SoftTargetCrossEntropy}


def loss(folder):
    rng = np.random.default_rng(90)
    arrays, cases = {}, []

    def run(name, loss_name, module, logits, target_name, target):
        case = {"name": name, "logits": f"{name.split('.')[0]}.logits", "target": target_name, "loss": loss_name}
        for tag, dtype in (("f32", torch.float32), ("f64", torch.float64)):
            x = torch.from_numpy(logits).to(dtype).requires_grad_()
            # Whether a target passes the threshold is decided in float32, as in training.
            y = torch.from_numpy(target)
            if y.is_floating_point():
                threshold = getattr(module, "target_threshold", None)
                y = y.gt(threshold).to(dtype) if threshold is not None else y.to(dtype)
            value = module(x, y)
            value.backward()
            case[f"value_{tag}"] = value.item()
            arrays[f"{name}.grad_{tag}"] = x.grad.numpy()
        cases.append(case)

    for size, batch, classes, spread in (("small", 6, 11, 8.0), ("wide", 2, 40, 3.0)):
        logits = (rng.normal(0, spread, (batch, classes))).astype(np.float32)
        logits[0, :3] = (0.0, 60.0, -60.0)
        labels = rng.integers(0, classes, batch)
        lam = rng.random((batch, 1)).astype(np.float32)
        lam[:2, 0] = (0.2, 0.8)
        arrays |= {f"{size}.logits": logits, f"{size}.labels": labels, f"{size}.lam": lam}
        for loss_name, make in INDEX_LOSSES.items():
            run(f"{size}.index.{loss_name}", loss_name, make(), logits, f"{size}.labels", labels)
        for smoothing in (0.0, 0.1):
            for kind, share in (("elem", torch.from_numpy(lam)), ("batch0.73", 0.73), ("batch0.15", 0.15)):
                target = mixup_target(torch.from_numpy(labels), classes, share, smoothing).numpy()
                name = f"dense_{kind}_s{smoothing}"
                arrays[f"{size}.target.{name}"] = target
                for loss_name, make in DENSE_LOSSES.items():
                    run(f"{size}.{name}.{loss_name}", loss_name, make(), logits, f"{size}.target.{name}", target)
    write_json(folder / "cases.json", {
        "definitions": {"bce": "mean over all B*C", "bce_sum": "sum over classes, mean over batch",
                        "thr": "target := 1 if target > t else 0 (strict)",
                        "bce_s0p1": "index target: on = 1-0.1+0.1/C, off = 0.1/C"},
        "threshold_boundary": {f"float32({t}).gt(0.2)": bool(torch.tensor(t, dtype=torch.float32).gt(0.2))
                               for t in (0.2, 0.2000001, 0.19999999)},
        "cases": cases})
    save_file(arrays, folder / "loss.safetensors")


def droppath(folder):
    rates_ = {}
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
        model = timm.create_model(name, drop_path_rate=0.05)
        blocks = [(n, m) for n, m in model.named_modules() if n.startswith("layer") and n.count(".") == 1 and n[-1].isdigit()]
        rates_[name] = [[n, float(getattr(m.drop_path, "drop_prob", 0.0) if m.drop_path is not None else 0.0)] for n, m in blocks]
    write_json(folder / "drop_path.json", {
        "drop_path_rate": 0.05,
        "rule": "rate of block k (0-based over the whole net, n blocks) = rate * k / (n - 1); block 0 has no DropPath",
        "semantic": "train only; one Bernoulli(keep = 1 - rate) per sample, x * mask / keep, applied to the residual branch after "
                    "the last BN and before the addition and the ReLU; the shortcut/downsample branch is never dropped",
        "rates": rates_, "numeric_example": "none in this set"})
