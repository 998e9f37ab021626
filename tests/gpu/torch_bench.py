"""Training steps of PyTorch, beside those of `forebay-trainer bench`: the same model, batches, sizes and work, in the same run.

bf16 by autocast and channels_last, eager and compiled. A step uploads a batch of bytes from page-locked memory, normalizes it, goes
forward and backward, and updates the parameters, by LAMB if timm is there. Exit code 77: there is no torch.
"""

import argparse
import json
import statistics
import sys
import time

try:
    import torch
except ImportError as error:
    print(f"there is no torch: {error}")
    sys.exit(77)


# timm's LAMB launches many kernels for each tensor, which SGD does not.
SGD = "eager, SGD"


class Block(torch.nn.Module):
    """A bottleneck of ResNet-50 with the stride in the second convolution."""

    def __init__(self, inputs, channels, stride):
        super().__init__()
        nn, outputs = torch.nn, 4 * channels
        self.body = nn.Sequential(
            nn.Conv2d(inputs, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True),
            nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = torch.nn.Identity() if inputs == outputs else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


def plain_resnet(blocks, width, classes):
    nn = torch.nn
    layers = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            layers.append(Block(inputs, width << stage, 2 if stage > 0 and block == 0 else 1))
            inputs = 4 * (width << stage)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def make_model(tiny):
    """The model, and who wrote it."""
    if tiny:
        return plain_resnet([1, 1], 8, 10), "a tiny ResNet"
    try:
        import timm
        return timm.create_model("resnet50"), f"timm {timm.__version__} resnet50"
    except ImportError:
        pass
    try:
        import torchvision
        return torchvision.models.resnet50(), f"torchvision {torchvision.__version__} resnet50"
    except ImportError:
        return plain_resnet([3, 4, 6, 3], 64, 1000), "a plain ResNet-50"


def make_optimizer(model, lamb):
    """LAMB as the recipes have it if timm is there, otherwise SGD, and its name."""
    try:
        if lamb:
            from timm.optim import Lamb
            return Lamb(model.parameters(), lr=1e-3, weight_decay=0.02), "LAMB of timm"
    except ImportError:
        pass
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9), "SGD with momentum, which is less work than LAMB"


class Clock:
    """Takes the ends of steps."""

    def __init__(self, device):
        self.gpu, self.ends = device.type == "cuda", []

    def end(self):
        if self.gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.ends.append(event)
        else:
            self.ends.append(time.perf_counter())

    def steps_ms(self):
        pairs = list(zip(self.ends, self.ends[1:]))
        if self.gpu:
            torch.cuda.synchronize()
            return [begin.elapsed_time(end) for begin, end in pairs]
        return [(end - begin) * 1e3 for begin, end in pairs]


def measure(args, device, batch, size, mode):
    compiled = mode == "compiled"
    torch.manual_seed(0)
    # Each shape is compiled for itself, not as one of several.
    torch._dynamo.reset()
    model, source = make_model(args.tiny)
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer, optimizer_name = make_optimizer(model, lamb=mode != SGD)
    classes = 10 if args.tiny else 1000
    # A rehearsal compiles nothing, which would take longer than all the rest.
    run = torch.compile(model, dynamic=False, backend="eager" if args.tiny else "inductor") if compiled else model
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).mul(255).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=device).mul(255).view(1, 3, 1, 1)
    pixels = [torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8) for _ in range(3)]
    if device.type == "cuda":
        pixels = [host.pin_memory() for host in pixels]
    targets = torch.nn.functional.one_hot(torch.arange(batch, device=device) % classes, classes).float()
    clock = Clock(device)
    for step in range(args.warm_up + args.steps):
        images = pixels[step % len(pixels)].to(device, non_blocking=True).permute(0, 3, 1, 2)
        with torch.autocast(device.type, torch.bfloat16):
            logits = run(((images.float() - mean) / std).contiguous(memory_format=torch.channels_last))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step + 1 >= args.warm_up:
            clock.end()
    times = sorted(clock.steps_ms())
    median = statistics.median(times)
    return {
        "model": source, "optimizer": optimizer_name,
        "step_ms": {"lower": times[len(times) // 4], "median": median, "upper": times[len(times) * 3 // 4]},
        "images_per_s": batch / median * 1e3, "loss": float(loss.detach()),
    }


def numbers(text):
    return [int(number) for number in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch", type=numbers, default=[32, 64, 256, 512])
    parser.add_argument("--size", type=numbers, default=[224, 160])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no measurement after this time")
    parser.add_argument("--tiny", action="store_true", help="a model of two blocks, to rehearse on a CPU")
    parser.add_argument("--json", required=True)
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    begin, runs = time.monotonic(), []
    # Compiling takes long: the most telling batches come first, in case time runs out.
    cases = [(size, batch, "eager") for size in args.size for batch in args.batch]
    cases += [(args.size[0], batch, SGD) for batch in args.batch]
    by_interest = sorted(args.batch, key=lambda batch: [256, 32, 512, 64].index(batch) if batch in (256, 32, 512, 64) else 4)
    cases += [(size, batch, "compiled") for size in args.size for batch in by_interest]
    for size, batch, mode in cases:
        run = {"batch": batch, "image_size": size, "precision": "bf16", "mode": mode}
        if time.monotonic() - begin > args.seconds:
            run["error"] = "no time was left"
        else:
            try:
                run |= measure(args, device, batch, size, mode)
            except Exception as error:  # Whatever torch cannot do here, the other measurements are wanted.
                run["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            if device.type == "cuda":
                torch.cuda.empty_cache()
        runs.append(run)
        print(run, flush=True)
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"torch": torch.__version__, "device": str(device), "runs": runs}, file, indent=1)
    if not any("images_per_s" in run for run in runs):
        sys.exit("nothing could be measured")


main()
