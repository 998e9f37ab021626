"""Trains the same network with torch and timm on the microbatches of a run of forebay-trainer.

    train.py optimizers --forebay BIN --trainer BIN [--opt sgd --opt adamw] [-- --clip-grad 1]
    train.py init resnet20 --classes 10 --out init.safetensors
    forebay-trainer train ... --model resnet20 --initial-checkpoint init.safetensors --dump dump --output run
    train.py compare run dump --initial-checkpoint init.safetensors [--steps 20] [--limit 0.01] [--out torch.safetensors]
    forebay-trainer eval ... --model resnet20 --initial-checkpoint torch.safetensors

`optimizers` does all of this for each optimizer, on 20 steps of `forebay sample-data`; what follows `--` are further
options of `forebay-trainer train`.

`compare` takes every setting from the run's checkpoint and every pixel and target from the dump; model
(timm's, or the CIFAR ResNet below), loss, optimizer and schedule are timm's. It prints both losses of
each step and fails where one of the first `--steps` differs by more than `--limit`, relatively. With
`--steps 0` it goes on as far as the dump and the log go.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from timm import create_model
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import dispatch_clip_grad
from torch import nn


class Block(nn.Module):
    """Two 3x3 convolutions; the shortcut takes every second pixel and pads channels with zeros (He et al., 4.2)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return (y + nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.more))).relu()


class CifarResNet(nn.Module):
    def __init__(self, blocks, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inputs = 16
        for stage, outputs in enumerate((16, 32, 64)):
            layers = []
            for block in range(blocks):
                layers.append(Block(inputs, outputs, 2 if stage and not block else 1))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(64, classes)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if name.endswith("bn2"):
                nn.init.zeros_(module.weight)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


CIFAR = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}


def network(name, classes):
    if name in CIFAR:
        return CifarResNet(CIFAR[name], classes)
    return create_model(name, num_classes=classes)


def init(args):
    torch.manual_seed(args.seed)
    save_file(network(args.model, args.classes).state_dict(), args.out)


def criterion(loss):
    if loss["criterion"] == "cross_entropy":
        return SoftTargetCrossEntropy()
    return BinaryCrossEntropy(target_threshold=loss["target_threshold"], sum_classes=loss["criterion"] == "bce_sum")


def targets(batch, classes, smoothing):
    """timm's mixup_target with one lambda per sample."""
    off = smoothing / classes
    one_hot = lambda labels: torch.full((len(labels), classes), off).scatter_(
        1, labels.long().view(-1, 1), 1.0 - smoothing + off
    )
    lam = batch["lambda"].view(-1, 1)
    return one_hot(batch["label_a"]) * lam + one_hot(batch["label_b"]) * (1.0 - lam)


def scheduler(optimizer, schedule, steps):
    decay = schedule.get("decay", "cosine")
    (sched, more), = ({decay: {}} if isinstance(decay, str) else decay).items()
    names = {"epochs": "decay_epochs", "rate": "decay_rate", "power": "decay_rate", "milestones": "decay_milestones"}
    return create_scheduler_v2(
        optimizer,
        sched=sched,
        num_epochs=schedule["epochs"],
        min_lr=schedule["min_lr"],
        warmup_epochs=schedule["warmup_epochs"],
        warmup_lr=schedule["warmup_lr"],
        warmup_prefix=schedule.get("warmup_prefix", False),
        cooldown_epochs=schedule.get("cooldown_epochs", 0),
        step_on_epochs=not schedule["on_updates"],
        updates_per_epoch=steps,
        **{names[key]: value for key, value in more.items()},
    )[0]


def optimizer_of(model, settings, rate):
    """The optimizer of a run. LAMB's settings have no name."""
    settings = dict(settings)
    name = settings.pop("name", "lamb")
    if name == "sgd" and not settings.pop("nesterov"):
        name = "momentum"
    return create_optimizer_v2(model, opt=name, lr=rate, **settings)


def clip(model, settings):
    """As timm's train script, which leaves the classifier to itself with adaptive clipping."""
    if settings:
        parameters = list(model.parameters())
        dispatch_clip_grad(parameters[:-2] if settings["mode"] == "agc" else parameters, **settings)


def compare(args):
    run = json.loads((sorted(args.run.glob("step-*"))[-1] / "run.json").read_text())
    about = json.loads((args.dump / "description.json").read_text())
    config, classes = run["config"], run["classes"]
    if config["drop_path"]:
        sys.exit("stochastic depth draws from other streams in torch: compare a run with --drop-path 0")
    lines = [json.loads(line) for line in (args.run / "log.jsonl").read_text().splitlines()]
    ours = [line["loss"] for line in lines if "loss" in line]
    model = network(run["model"], classes).to(memory_format=torch.channels_last).train()
    model.load_state_dict(load_file(args.initial_checkpoint), strict=True)
    optimizer = optimizer_of(model, config["optimizer"], config["schedule"]["lr"])
    rates = scheduler(optimizer, config["schedule"], config["steps_per_epoch"])
    loss_of, microbatches = criterion(config["loss"]), config["microbatches"]
    mean, std = (255 * torch.tensor(about[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    worst = 0.0
    for update, wanted in enumerate(ours if args.steps == 0 else ours[: args.steps]):
        epoch, step = divmod(update, config["steps_per_epoch"])
        (rates.step_update if config["schedule"]["on_updates"] else rates.step)(
            update if config["schedule"]["on_updates"] else epoch
        )
        optimizer.zero_grad()
        loss = 0.0
        for index in range(microbatches):
            batch = load_file(args.dump / f"{epoch:04}-{step:06}-{index:03}.safetensors")
            x = (batch["pixels"].permute(0, 3, 1, 2).float() - mean) / std
            part = loss_of(model(x), targets(batch, classes, config["loss"]["smoothing"])) / microbatches
            part.backward()
            loss += part.item()
        clip(model, config.get("clip_grad"))
        optimizer.step()
        away = abs(loss - wanted) / loss
        worst = max(worst, away)
        if args.steps or update % 50 == 0:
            print(f"step {update:5}: torch {loss:.6f}  forebay {wanted:.6f}  {100 * away:.4f} % apart", flush=True)
    if args.out:
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, args.out)
    print(f"largest difference of {len(ours) if args.steps == 0 else args.steps} steps: {100 * worst:.4f} %")
    if args.steps and worst > args.limit:
        sys.exit(f"more than {100 * args.limit} % apart")


# The learning rate of each optimizer in `optimizers`.
RATES = {"lamb": 0.005, "sgd": 0.02, "momentum": 0.02, "adamw": 0.001}


def optimizers(args):
    """Trains with each optimizer, and compares."""
    steps = str(args.steps)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        subprocess.run([args.forebay, "sample-data", work / "data", "--classes", "4", "--per-class", "96",
                        "--val-per-class", "0"], check=True, capture_output=True)
        subprocess.run([args.forebay, "index", work / "data/train"], check=True, capture_output=True)
        socket = f"unix:{work}/forebay.sock"
        server = subprocess.Popen([args.forebay, "serve", "--dataset", f"train={work}/data/train", "--listen", socket],
                                  env=os.environ | {"RUST_LOG": "warn"})
        try:
            torch.manual_seed(0)
            weights = work / "init.safetensors"
            save_file(network("resnet20", 4).state_dict(), weights)
            for name in args.opt or RATES:
                print(name, flush=True)
                run, dump = work / f"{name}-run", work / f"{name}-dump"
                subprocess.run([args.trainer, "train", "--endpoint", socket, "--dataset", "train", "--recipe", "a3",
                                "--model", "resnet20", "--initial-checkpoint", weights, "--dump", dump, "--output", run,
                                "--batch", "16", "--microbatches", "2", "--image-size", "32", "--drop-path", "0",
                                "--opt", name, "--lr", str(RATES[name]), "--weight-decay", "0.02", "--epochs", "2",
                                "--warmup-epochs", "0", "--sched-on-updates", "--stop-after", steps,
                                "--give-up-after", "30s", *args.options],
                               check=True, stdout=subprocess.DEVNULL)
                compare(argparse.Namespace(run=run, dump=dump, initial_checkpoint=weights, steps=args.steps,
                                           limit=args.limit, out=None))
        finally:
            server.terminate()
            server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("init", help="write torch's initial weights")
    first.add_argument("model")
    first.add_argument("--classes", type=int, default=10)
    first.add_argument("--seed", type=int, default=0)
    first.add_argument("--out", required=True)
    first.set_defaults(run_command=init)
    second = commands.add_parser("compare", help="train with torch on a run's microbatches")
    second.add_argument("run", type=pathlib.Path)
    second.add_argument("dump", type=pathlib.Path)
    second.add_argument("--initial-checkpoint", required=True)
    second.add_argument("--steps", type=int, default=20)
    second.add_argument("--limit", type=float, default=0.01)
    second.add_argument("--out")
    second.set_defaults(run_command=compare)
    third = commands.add_parser("optimizers", help="compare every optimizer on sample data")
    third.add_argument("--forebay", required=True)
    third.add_argument("--trainer", required=True)
    third.add_argument("--opt", action="append", choices=RATES, help="an optimizer; default all")
    third.add_argument("--steps", type=int, default=20)
    third.add_argument("--limit", type=float, default=0.01)
    third.add_argument("options", nargs="*", metavar="OPTION", help="further options of forebay-trainer train")
    third.set_defaults(run_command=optimizers)
    args = parser.parse_args()
    args.run_command(args)


if __name__ == "__main__":
    main()
