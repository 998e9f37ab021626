"""CPU time of an image in a torch loop: forebay from a path, and torch's DataLoader with timm or torchvision.

    python bench.py IMAGEFOLDER [--rounds 3] [--images 4000] [--workers 2] [--only NAME ...]

Runs them in turns, and counts the CPU time of all processes: the loop's, its workers' and the server's. The images
are those of recipe a2 of 224 pixels, with its crop, flip, RandAugment, MixUp and CutMix. Also prints the part of the
main thread, which bounds how long it holds the GIL, the time to the first batch of an indexed path, and memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import forebay.torch

BATCH = 128
TICKS = os.sysconf("SC_CLK_TCK")


def processes() -> dict[int, tuple[int, float, int]]:
    """For each process: its parent, CPU seconds, and bytes of memory."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            cpu = (int(fields[11]) + int(fields[12])) / TICKS
            found[int(entry.name)] = (int(fields[1]), cpu, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))
    return found


def ours() -> tuple[float, int]:
    """CPU seconds and memory of this process and all that descend from it."""
    all_of = processes()
    family, size = {os.getpid()}, 0
    while len(family) != size:
        size = len(family)
        family |= {pid for pid, (parent, _, _) in all_of.items() if parent in family}
    return sum(all_of[pid][1] for pid in family), sum(all_of[pid][2] for pid in family)


def from_forebay(**options: Any) -> Callable[[str, int], Iterator[Any]]:
    def batches(path: str, workers: int) -> Iterator[Any]:
        changes = {"batch": BATCH, "microbatches": 1, **options}
        with forebay.torch.Loader(path, recipe="a2", set=changes, threads=workers) as loader:
            while True:
                yield from loader

    return batches


def from_timm(path: str, workers: int) -> Iterator[Any]:
    from timm.data import FastCollateMixup, create_dataset, create_loader

    mixup = FastCollateMixup(0.1, 1.0, label_smoothing=0.0, num_classes=1000)
    loader = create_loader(
        create_dataset("", root=path), input_size=(3, 224, 224), batch_size=BATCH, is_training=True,
        auto_augment="rand-m7-mstd0.5-inc1", interpolation="bicubic", num_workers=workers, collate_fn=mixup,
        device=torch.device("cpu"), persistent_workers=True,
    )
    while True:
        yield from loader


def from_torchvision(path: str, workers: int) -> Iterator[Any]:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose([
        v2.PILToTensor(), v2.RandomResizedCrop(224, interpolation=v2.InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(), v2.RandAugment(2, 7), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])
    mix = v2.RandomChoice([v2.MixUp(alpha=0.1, num_classes=1000), v2.CutMix(alpha=1.0, num_classes=1000)])

    def collate(samples: Any) -> Any:
        return mix(*torch.utils.data.default_collate(samples))

    loader = torch.utils.data.DataLoader(
        ImageFolder(path, transform), BATCH, shuffle=True, num_workers=workers, collate_fn=collate, drop_last=True,
        persistent_workers=True,
    )
    while True:
        yield from loader


LOADERS: dict[str, Callable[[str, int], Iterator[Any]]] = {
    "forebay, path": from_forebay(),
    "forebay, path, repeats off": from_forebay(repeats=1),
    "torch DataLoader + timm": from_timm,
    "torch DataLoader + torchvision v2": from_torchvision,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(LOADERS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Indexed beforehand.
    forebay.Loader(arguments.path, set={"batch": BATCH, "microbatches": 1}).close()
    started = {name: LOADERS[name](arguments.path, arguments.workers) for name in arguments.only}
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in started}
    for name, batches in started.items():
        begin = time.perf_counter()
        next(batches)
        print(f"{name}: first batch after {time.perf_counter() - begin:.2f} s, {ours()[1] >> 20} MiB so far", flush=True)
    for _ in range(arguments.rounds):
        for name, batches in started.items():
            # What was made while others ran would count for nothing.
            for _ in range(16):
                next(batches)
            (cpu, _), thread, images = ours(), time.thread_time(), 0
            while images < arguments.images:
                images += len(next(batches)[0])
            figures[name].append((1e3 * (ours()[0] - cpu) / images, 1e3 * (time.thread_time() - thread) / images))
    print(f"CPU ms an image, all processes (median of {arguments.rounds}); of the main thread")
    for name, rounds in figures.items():
        total, thread = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"  {name:36} {total:6.3f}  {thread:6.3f}")


if __name__ == "__main__":
    main()
