"""15_models: timm's variants of the ResNet, narrow, with their logits, gradients and statistics."""

import functools

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from timm.loss import BinaryCrossEntropy
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.optim import param_groups_layer_decay

from common import write_json

CLASSES, BATCH, SIDE, RATE = 5, 3, 37, 0.4
DEEP = {"stem_type": "deep", "stem_width": 8, "avg_down": True}
NARROW = {
    "r18d": (BasicBlock, (1, 1, 1, 1), (8, 10, 12, 14), DEEP),
    "r50d": (Bottleneck, (1, 1, 1, 1), (4, 4, 6, 8), DEEP),
    "next": (Bottleneck, (1, 1, 1, 1), (6, 6, 10, 10), {"cardinality": 4, "base_width": 24}),
    "se": (Bottleneck, (1, 2, 1, 1), (4, 4, 6, 6), {"block_args": {"attn_layer": "se"}}),
    "wide": (Bottleneck, (1, 1, 1, 1), (4, 4, 6, 6), {"base_width": 128}),
}
FULL = ("resnet18d", "resnet50d", "resnext50_32x4d", "seresnet50", "wide_resnet50_2")


def narrow(name):
    block, layers, channels, more = NARROW[name]
    torch.manual_seed(15)
    model = ResNet(block, layers=layers, channels=channels, num_classes=CLASSES, zero_init_last=False, **more)
    for name, value in list(model.named_parameters()) + list(model.named_buffers()):
        if value.ndim == 1 and "bias" not in name:
            value.data = 1 + 0.25 * torch.randn_like(value) ** 2 / 4
        elif name.endswith("bias"):
            value.data = 0.125 * torch.randn_like(value)
    return model


def run(model, images, target, masks):
    """Logits in evaluation and training, loss, gradients and statistics after one step."""
    out = {"logits_eval": model.eval()(images).detach()}
    model.train()
    for name, mask in masks.items():
        block = model.get_submodule(name)
        block.drop_path = lambda x, mask=mask: x * mask.to(x.dtype).view(-1, 1, 1, 1)
    logits = model(images)
    loss = BinaryCrossEntropy(smoothing=0.0)(logits, target)
    loss.backward()
    out |= {"logits_train": logits.detach(), "loss": loss.detach()}
    out |= {f"grad.{name}": parameter.grad for name, parameter in model.named_parameters()}
    out |= {f"after.{name}": value for name, value in model.named_buffers() if value.ndim}
    return out


def blocks(model):
    return [name for name, module in model.named_modules() if isinstance(module, (BasicBlock, Bottleneck))]


def inputs(name, salt):
    rng = np.random.default_rng([15, list(NARROW).index(name), salt])
    images = torch.from_numpy(rng.uniform(-2, 2, (BATCH, 3, SIDE, SIDE)).astype(np.float32))
    target = torch.from_numpy(rng.uniform(0, 1, (BATCH, CLASSES)).astype(np.float32))
    return images, target


def apart(single, double):
    """The largest relative distance of a gradient in f32 from that in f64."""
    of = lambda key: float((single[key].double() - double[key]).norm() / double[key].norm())
    return max(of(key) for key in double if key.startswith("grad."))


def make(folder):
    models = {}
    for name in NARROW:
        names = blocks(narrow(name))
        rng = np.random.default_rng(150)
        keep = [1 - RATE * i / (len(names) - 1) for i in range(len(names))]
        kept = {block: (rng.random(BATCH) < share).tolist() for block, share in zip(names, keep)}
        masks = {block: torch.tensor(mask).double() / share for (block, mask), share in zip(kept.items(), keep)}
        # The input on which the fewest decisions of a ReLU differ between f32 and f64.
        best = None
        for salt in range(20):
            images, target = inputs(name, salt)
            double = run(narrow(name).double(), images.double(), target.double(), masks)
            distance = apart(run(narrow(name), images, target, masks), double)
            if best is None or distance < best[0]:
                best = distance, images, target, double
        distance, images, target, double = best
        model = narrow(name)
        arrays = {"input": images, "target": target}
        arrays |= {f"weights.{key}": value for key, value in model.state_dict().items() if value.ndim}
        arrays |= double
        save_file({key: value.contiguous() for key, value in arrays.items()}, folder / f"{name}.safetensors")
        block, layers, channels, more = NARROW[name]
        models[name] = {"block": block.__name__, "layers": layers, "channels": channels, "batch": BATCH, "side": SIDE,
                        "classes": CLASSES, "kept": kept, "drop_path": RATE, "torch_f32_error": distance, **more}
    full = {}
    for name in FULL:
        model = timm.create_model(name)
        groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.75)
        parameters = {id(parameter): key for key, parameter in model.named_parameters()}
        scales = {parameters[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
        full[name] = {key: [list(parameter.shape), *scales[key], bool((parameter == 0).all())] for key, parameter in model.named_parameters()}
    write_json(folder / "cases.json", {"narrow": models})
    counts = {name: sum(p.numel() for p in timm.create_model(name).parameters()) for name in (*FULL, "resnet34d", "resnet101d", "resnet152d")}
    write_json(folder / "full.json", {"counts": counts, "layer_decay": 0.75, "weight_decay": 0.05, "parameters": full})
