"""Exported models in torch, timm and onnxruntime.

    python export.py [--trainer PATH]

Writes models of timm with random statistics, exports them by `forebay-trainer export`, and compares: the torch file is
read by `torch.load(weights_only=True)` and loads strictly in timm, with equal weights; the ONNX file passes
`onnx.checker`, and its logits in onnxruntime are timm's within 1e-4, for several batches and sizes of images. Needs
timm, torch, safetensors, onnx and onnxruntime.
"""

import argparse
import pathlib
import subprocess
import tempfile

import numpy as np
import onnx
import onnxruntime
import timm
import torch
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ("resnet18", "resnet18d", "resnext50_32x4d", "seresnet50")
INPUTS = ((1, 64, 64), (3, 65, 97))
LIMIT = 1e-4


def random_model(name):
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=10, zero_init_last=False).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean += 0.1 * torch.randn_like(module.running_mean)
            module.running_var *= 1 + 0.5 * torch.rand_like(module.running_var)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", type=pathlib.Path, default=ROOT / "target/debug/forebay-trainer")
    args = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name in MODELS:
            model = random_model(name)
            save_file(model.state_dict(), folder / "model.safetensors")
            subprocess.run([args.trainer, "export", folder / "model.safetensors", "--model", name,
                            "--torch", folder / "model.pth", "--onnx", folder / "model.onnx"], check=True)
            read = torch.load(folder / "model.pth", weights_only=True)
            again = timm.create_model(name, num_classes=10)
            again.load_state_dict(read, strict=True)
            for key, value in model.state_dict().items():
                if value.ndim and not torch.equal(value, again.state_dict()[key]):
                    raise SystemExit(f"{name}: {key} differs in the torch file")
            onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
            session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
            for batch, height, width in INPUTS:
                images = torch.randn(batch, 3, height, width)
                with torch.no_grad():
                    expected = model(images).numpy()
                (logits,) = session.run(None, {"input": images.numpy()})
                apart = float(np.abs(logits - expected).max() / np.abs(expected).max())
                worst = max(worst, apart)
                if logits.shape != expected.shape or apart > LIMIT:
                    raise SystemExit(f"{name}, {batch} images of {height}x{width}: logits {apart:.1e} apart, expected {LIMIT}")
    print(f"{len(MODELS)} models: torch files load in timm, and ONNX logits are timm's within {worst:.1e}")


if __name__ == "__main__":
    main()
