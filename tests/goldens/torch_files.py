"""14_torch: state dicts as torch.save writes them, and files that only look like it."""

import argparse
import collections
import io
import zipfile

import torch
from safetensors.torch import save_file

from common import write_json


class Command:
    """What a loader that runs pickles would run."""

    def __reduce__(self):
        import os
        return os.system, ("touch ran",)


def model():
    torch.manual_seed(14)
    layers = torch.nn.Sequential(collections.OrderedDict(
        conv=torch.nn.Conv2d(3, 4, 3, bias=False), norm=torch.nn.BatchNorm2d(4), fc=torch.nn.Linear(4, 2)))
    layers.norm.running_mean += torch.arange(4)
    return layers


def recompressed(file):
    """The same archive, compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return out.getvalue()


def make(folder):
    state = model().state_dict()
    flat = torch.arange(40, dtype=torch.float32)
    good = {
        "plain": state,
        "nested": {"epoch": 3, "arch": "resnet", "metric": 0.5, "state_dict": state, "optimizer": {"state": [1, None, (True, 2**40)]}},
        "torchvision": {"model": state, "epoch": 7},
        "parameters": {name: torch.nn.Parameter(value) if value.is_floating_point() else value for name, value in state.items()},
        "parallel": {f"module.{name}": value for name, value in state.items()},
        "half": {"a": state["conv.weight"].half(), "b": state["fc.weight"].bfloat16()},
        "views": {"transposed": flat.view(5, 8).t(), "middle": flat[7:19].view(3, 4), "nhwc": state["conv.weight"].to(memory_format=torch.channels_last),
                  "scalar": flat[39], "empty": flat[:0].view(0, 3)},
    }
    bad = {
        "double": {"a": flat.double()},
        "arguments": {"args": argparse.Namespace(lr=1), "state_dict": state},
        "command": {"a": flat, "b": Command()},
        "expanded": {"a": flat[:1].expand(1 << 40)},
        "number": {"a": 1},
        "list": [flat],
        "numpy": {"a": flat.numpy()},
    }
    for name, value in (good | bad).items():
        torch.save(value, folder / f"{name}.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    (folder / "compressed.pth").write_bytes(recompressed(folder / "plain.pth"))
    arrays = {}
    for case, value in good.items():
        tensors = value.get("state_dict", value.get("model", value))
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                arrays[f"{case}/{name.removeprefix('module.')}"] = tensor.detach().float().contiguous().clone()
    save_file(arrays, folder / "values.safetensors")
    write_json(folder / "cases.json", {"good": list(good), "bad": {
        "double": "float64", "arguments": "argparse.Namespace", "command": "system", "expanded": "storage",
        "number": "named tensors", "list": "named tensors", "numpy": "numpy", "legacy": "safetensors",
        "compressed": "compressed"}})
