"""CPU time of an image in a torch loop: forebay from a path, a Unix socket and TCP, and torch's DataLoader.

    python bench.py IMAGEFOLDER [--rounds 3] [--images 4000] [--workers 2] [--batch 128] [--only NAME ...]

Runs all loops in turns, and counts the CPU time of all processes: the loop's, its workers' and the servers'. The images
are those of recipe a2 of 224 pixels, with its crop, flip, RandAugment, MixUp and CutMix, as normalized floats with dense
targets. Prints a table in Markdown:

    CPU ms      of all processes
    main thread CPU ms of the thread of the loop, in which it may hold the GIL
    GIL         ms in which it did, by samples of py-spy, if that is installed (`pip install py-spy`)
    first batch seconds from the call of the loader to its first batch, with the folder indexed and imports done
    memory      MB by which all processes grew until the loop ran steadily, what they share counted once

The machine must be at rest.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import forebay.torch

TICKS = os.sysconf("SC_CLK_TCK")
CLASSES = 1000
# Batches after which a loop runs steadily: more than any of the loaders has ready while others run.
WARM_UP = 16
# Samples a second of py-spy, and seconds of a run with it.
RATE, SAMPLED = 100, 20


def family() -> list[int]:
    """This process and all that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found, size = {os.getpid()}, 0
    while len(found) != size:
        size = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return list(found)


def of_all(read: Callable[[Path], float]) -> float:
    """The sum over all processes; those that end meanwhile count nothing."""
    total = 0.0
    for pid in family():
        try:
            total += read(Path(f"/proc/{pid}"))
        except OSError:
            continue
    return total


def cpu_seconds(process: Path) -> float:
    fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def megabytes(process: Path) -> float:
    """Memory, with a part of what several processes share."""
    for line in (process / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1e3
    return 0.0


@dataclass
class Settings:
    path: str
    workers: int
    batch: int
    # Where the servers of "Unix socket" and "TCP" have theirs.
    folder: str


Batches = Iterator[tuple[Any, Any]]


def forever(loader: Any) -> Batches:
    while True:
        yield from loader


def from_forebay(settings: Settings, source: Any = None, **changes: Any) -> Batches:
    changes = {"batch": settings.batch, "microbatches": 1, **changes}
    options: dict[str, Any] = {} if source else {"threads": settings.workers}
    return forever(forebay.torch.Loader(source or settings.path, set=changes, num_classes=CLASSES, **options))


def from_server(settings: Settings, listen: str) -> Batches:
    serve = [sys.executable, "-m", "forebay", "serve", "--listen", listen, "--threads", str(settings.workers)]
    server = subprocess.Popen(
        [*serve, "--device", "cpu", "--dataset", f"train={settings.path}"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    SERVERS.append(server)
    assert server.stdout is not None
    address = server.stdout.readline().removeprefix("listening on ").strip()
    return from_forebay(settings, address if address.startswith("unix:") else f"http://{address}")


SERVERS: list[subprocess.Popen[str]] = []


def from_timm(settings: Settings) -> Batches:
    from timm.data import FastCollateMixup, create_dataset, create_loader

    mixup = FastCollateMixup(0.1, 1.0, label_smoothing=0.0, num_classes=CLASSES)
    return forever(create_loader(
        create_dataset("", root=settings.path), input_size=(3, 224, 224), batch_size=settings.batch, is_training=True,
        auto_augment="rand-m7-mstd0.5-inc1", interpolation="bicubic", num_workers=settings.workers, collate_fn=mixup,
        device=torch.device("cpu"), persistent_workers=True,
    ))


def from_torchvision(settings: Settings) -> Batches:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose([
        v2.PILToTensor(), v2.RandomResizedCrop(224, interpolation=v2.InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(), v2.RandAugment(2, 7), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])
    mix = v2.RandomChoice([v2.MixUp(alpha=0.1, num_classes=CLASSES), v2.CutMix(alpha=1.0, num_classes=CLASSES)])

    def collate(samples: Any) -> Any:
        return mix(*torch.utils.data.default_collate(samples))

    return forever(torch.utils.data.DataLoader(
        ImageFolder(settings.path, transform), settings.batch, shuffle=True, num_workers=settings.workers,
        collate_fn=collate, drop_last=True, persistent_workers=True, multiprocessing_context="fork",
    ))


LOADERS: dict[str, Callable[[Settings], Batches]] = {
    "forebay, path": from_forebay,
    "forebay, path, repeats off": lambda settings: from_forebay(settings, repeats=1),
    "forebay, Unix socket": lambda settings: from_server(settings, f"unix:{settings.folder}/s"),
    "forebay, TCP": lambda settings: from_server(settings, "127.0.0.1:0"),
    "torch DataLoader + timm": from_timm,
    "torch DataLoader + torchvision v2": from_torchvision,
}


@dataclass
class Loop:
    batches: Batches
    first: float
    memory: float
    cpu: list[float] = field(default_factory=list)
    thread: list[float] = field(default_factory=list)
    gil: float | None = None

    def take(self, images: int) -> int:
        taken = 0
        while taken < images:
            taken += len(next(self.batches)[0])
        return taken

    def warm_up(self) -> None:
        for _ in range(WARM_UP):
            next(self.batches)

    def measure(self, images: int) -> None:
        # What was made while others ran would count for nothing.
        self.warm_up()
        cpu, thread = of_all(cpu_seconds), time.thread_time()
        taken = self.take(images)
        self.thread.append(1e3 * (time.thread_time() - thread) / taken)
        self.cpu.append(1e3 * (of_all(cpu_seconds) - cpu) / taken)

    def sample_gil(self, folder: str) -> None:
        """Counts the samples in which a thread of this process had the GIL."""
        self.warm_up()
        samples = Path(folder) / "samples"
        record = ["py-spy", "record", "--gil", "--nonblocking", "--pid", str(os.getpid()), "--rate", str(RATE)]
        with subprocess.Popen(
            [*record, "--duration", str(SAMPLED), "--format", "raw", "--output", str(samples)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as spy:
            taken = 0
            while spy.poll() is None:
                taken += self.take(1)
        if spy.returncode == 0:
            held = sum(int(line.rsplit(" ", 1)[1]) for line in samples.read_text().splitlines())
            self.gil = 1e3 * held / RATE / taken


def start(load: Callable[[Settings], Batches], settings: Settings) -> Loop:
    before, begin = of_all(megabytes), time.perf_counter()
    batches = load(settings)
    next(batches)
    loop = Loop(batches, time.perf_counter() - begin, 0.0)
    loop.warm_up()
    loop.memory = of_all(megabytes) - before
    return loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4000, help="of a round")
    parser.add_argument("--workers", type=int, default=2, help="threads or processes of each loader")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--only", nargs="*", default=list(LOADERS), choices=list(LOADERS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Neither imports nor the index count for a first batch.
    for module in ("timm.data", "torchvision.transforms.v2", "torchvision.datasets"):
        __import__(module)
    forebay.Loader(arguments.path, set={"batch": arguments.batch, "microbatches": 1}).close()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(arguments.path, arguments.workers, arguments.batch, folder)
        try:
            loops = {name: start(LOADERS[name], settings) for name in arguments.only}
            for _ in range(arguments.rounds):
                for loop in loops.values():
                    loop.measure(arguments.images)
            if shutil.which("py-spy"):
                for loop in loops.values():
                    loop.sample_gil(folder)
        finally:
            for server in SERVERS:
                server.kill()
    print(f"Per image, batches of {arguments.batch}, {arguments.workers} workers, median of {arguments.rounds} rounds of")
    print(f"{arguments.images} images in turns, one thread of torch {torch.__version__}:\n")
    print("| loader | CPU ms | main thread, ms | GIL, ms | first batch, s | memory, MB |\n|---|---|---|---|---|---|")
    for name, loop in loops.items():
        cpu, thread = statistics.median(loop.cpu), statistics.median(loop.thread)
        gil = "–" if loop.gil is None else f"{loop.gil:.3f}"
        print(f"| {name} | {cpu:.3f} | {thread:.3f} | {gil} | {loop.first:.2f} | {loop.memory:.0f} |")


if __name__ == "__main__":
    main()
