"""The part of timm's train.py that makes loaders and trains, with the one line that uses forebay.

    python timm_train.py --data-dir /data --model resnet18 --batch-size 32 --aa rand-m7-mstd0.5-inc1 --mixup 0.1
"""

import argparse
from pathlib import Path

import timm
import torch
from timm.data import resolve_data_config
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy

import forebay.timm


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--num-classes", type=int, default=None, help="by default the folders of train")
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--aa", default=None)
    parser.add_argument("--color-jitter", type=float, default=0.4)
    parser.add_argument("--mixup", type=float, default=0.0)
    parser.add_argument("--cutmix", type=float, default=0.0)
    parser.add_argument("--bce-loss", action="store_true")
    parser.add_argument("--smoothing", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--mixup-off-epoch", type=int, default=0)
    args = parser.parse_args()
    if args.num_classes is None:
        args.num_classes = sum(entry.is_dir() for entry in Path(args.data_dir, "train").iterdir())

    torch.manual_seed(0)
    model = timm.create_model(args.model, num_classes=args.num_classes)
    data_config = resolve_data_config(vars(args), model=model)
    loader_train, loader_eval = forebay.timm.create_loaders(args, data_config)

    is_mixing = args.mixup > 0 or args.cutmix > 0
    if args.bce_loss:
        loss_fn: torch.nn.Module = BinaryCrossEntropy()
    else:
        loss_fn = SoftTargetCrossEntropy() if is_mixing else torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in range(args.epochs):
        if args.mixup_off_epoch and epoch >= args.mixup_off_epoch and loader_train.mixup_enabled:
            loader_train.mixup_enabled = False
        loader_train.sampler.set_epoch(epoch)
        for image, target in loader_train:
            loss = loss_fn(model(image), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"epoch {epoch}, loss {loss.item():.6f}, target {tuple(target.shape)} {target.dtype}", flush=True)
        assert loader_eval is not None
        model.eval()
        with torch.no_grad():
            right = sum(int((model(image).argmax(1) == target).sum()) for image, target in loader_eval)
        model.train()
        print(f"epoch {epoch}, {right} of {len(loader_eval.dataset)} right", flush=True)
    loader_train.close()
    loader_eval.close()


if __name__ == "__main__":
    main()
