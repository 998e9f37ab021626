"""08_optim: SGD, AdamW, gradient clipping and learning rates of timm's factories, beside LAMB's trajectories."""

import numpy as np
import torch
from safetensors.numpy import save_file
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import dispatch_clip_grad

from common import write_json

# The tensor that stands for the classifier's, which adaptive clipping leaves out as timm's train script does.
HEAD = "matrix"
AGC = {"value": 0.05, "mode": "agc"}
NORM = {"value": 0.5, "mode": "norm"}
VALUE = {"value": 0.1, "mode": "value"}
# Arguments of create_optimizer_v2, and of dispatch_clip_grad.
VARIANTS = {
    "sgd": ({"opt": "sgd"}, None),
    "sgd_0p5": ({"opt": "sgd", "momentum": 0.5}, None),
    "momentum": ({"opt": "momentum"}, None),
    "plain": ({"opt": "momentum", "momentum": 0.0}, None),
    "adamw": ({"opt": "adamw"}, None),
    "adamw_betas_eps": ({"opt": "adamw", "betas": [0.8, 0.95], "eps": 1e-4}, None),
    "adamw_no_decay": ({"opt": "adamw", "weight_decay": 0.0}, None),
    "sgd_clip_norm": ({"opt": "sgd"}, NORM),
    "sgd_clip_value": ({"opt": "sgd"}, VALUE),
    "sgd_clip_agc": ({"opt": "sgd"}, AGC),
    "adamw_clip_norm": ({"opt": "adamw"}, NORM),
    "adamw_clip_value": ({"opt": "adamw"}, VALUE),
    "adamw_clip_agc": ({"opt": "adamw"}, AGC),
    "lamb_clip_norm": ({"opt": "lamb"}, NORM | {"value": 2.0}),
    "lamb_clip_value": ({"opt": "lamb"}, VALUE | {"value": 0.4}),
    "lamb_clip_agc": ({"opt": "lamb"}, AGC | {"value": 3.0}),
}


def run(init, grads, lrs, kwargs, clip, dtype):
    """Returns the parameters after each step, and the optimizer's state after the last one."""
    model = torch.nn.Module()
    for name, value in init.items():
        model.register_parameter(name, torch.nn.Parameter(torch.from_numpy(value.copy()).to(dtype)))
    params = dict(model.named_parameters())
    kwargs = {"weight_decay": 0.02} | {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
    optimizer = create_optimizer_v2(model, lr=lrs[0], **kwargs)
    out = {}
    for step, (lr, grad) in enumerate(zip(lrs, grads)):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, p in params.items():
            p.grad = torch.from_numpy(grad[name].copy()).to(dtype)
        if clip:
            clipped = [p for name, p in params.items() if not (clip["mode"] == "agc" and name == HEAD)]
            dispatch_clip_grad(clipped, **clip)
        optimizer.step()
        out |= {f"{step:02}.{name}": p.detach().numpy().copy() for name, p in params.items()}
    for name, p in params.items():
        for state in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
            if optimizer.state[p].get(state) is not None:
                out[f"{state}.{name}"] = optimizer.state[p][state].numpy().copy()
    return out


def trajectories(folder, init, grads, lrs):
    arrays, variants = {}, {}
    for name, (kwargs, clip) in VARIANTS.items():
        for tag, dtype in (("f32", torch.float32), ("f64", torch.float64)):
            arrays |= {f"{name}.{tag}.{key}": v for key, v in run(init, grads, lrs, dict(kwargs), clip, dtype).items()}
        variants[name] = {"kwargs": {"weight_decay": 0.02} | kwargs, "clip": clip}
    write_json(folder / "optimizers.json", {
        "inputs": "init, grad and lr of lamb.json and lamb.safetensors", "head": HEAD, "variants": variants,
        "layout": "<variant>.<f32|f64>.<step>.<param> = value after that step; <variant>.<dtype>.<state>.<param> = after the last step"})
    save_file(arrays, folder / "optimizers.safetensors")


# Arguments of create_scheduler_v2, besides those that all have.
SCHEDULES = {
    "cosine_prefix": {"sched": "cosine", "warmup_prefix": True},
    "cosine_cooldown": {"sched": "cosine", "cooldown_epochs": 3},
    "cosine_prefix_cooldown": {"sched": "cosine", "warmup_prefix": True, "cooldown_epochs": 3},
    "step": {"sched": "step", "decay_epochs": 7, "decay_rate": 0.3},
    "step_prefix": {"sched": "step", "decay_epochs": 7, "decay_rate": 0.3, "warmup_prefix": True, "cooldown_epochs": 3},
    "multistep": {"sched": "multistep", "decay_milestones": [6, 15, 16], "decay_rate": 0.2},
    "multistep_prefix": {"sched": "multistep", "decay_milestones": [6, 15, 16], "decay_rate": 0.2, "warmup_prefix": True},
    "linear": {"sched": "poly", "decay_rate": 1.0},
    "linear_prefix": {"sched": "poly", "decay_rate": 1.0, "warmup_prefix": True, "cooldown_epochs": 2},
    "poly": {"sched": "poly", "decay_rate": 2.5},
    "poly_no_warmup": {"sched": "poly", "decay_rate": 0.1, "warmup_epochs": 0},
}


def schedules(folder):
    cases = {}
    for name, changes in SCHEDULES.items():
        for per in (0, 3):
            kwargs = {"num_epochs": 20, "warmup_epochs": 4, "warmup_lr": 1e-4, "min_lr": 1e-5} | changes
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
            schedule, epochs = create_scheduler_v2(optimizer, step_on_epochs=not per, updates_per_epoch=per, **kwargs)
            values = [optimizer.param_groups[0]["lr"]]
            for t in range(1, epochs * (per or 1)):
                schedule.step_update(t) if per else schedule.step(t)
                values.append(optimizer.param_groups[0]["lr"])
            cases[f"{name}_{'update' if per else 'epoch'}"] = {
                "kwargs": kwargs, "lr": 0.1, "updates_per_epoch": per or None, "total_epochs": epochs, "values": values}
    write_json(folder / "schedules.json", cases)
