"""CPU time of an image in a torch loop: forebay from a path, a Unix socket and TCP, and torch's DataLoader.

    python bench.py IMAGEFOLDER [--rounds 3] [--images 4000] [--workers 2] [--batch 128] [--only NAME ...]
    python bench.py IMAGEFOLDER --interrupts 20

Runs all loops in turns, each in a process of its own, so that none works or has memory while another is measured. Counts
the CPU time of all processes: the loop's, its workers' and the servers'. The images are those of recipe a2 of 224
pixels, with its crop, flip, RandAugment, MixUp and CutMix, as normalized floats with dense targets. Prints a table in
Markdown:

    CPU         ms of all processes
    main thread ms of CPU of the thread of the loop, in which it may hold the GIL
    GIL         ms in which it did, and their share of the time, by samples of py-spy (`pip install py-spy`)
    first batch seconds to it, with the folder indexed and imports done; servers and workers start meanwhile
    memory      MB by which all processes grew, what they share counted once

With `--interrupts N` it measures instead how long Ctrl-C takes: the time from SIGINT to KeyboardInterrupt, N times in each
wait of a loader.

The machine must be at rest.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import forebay.torch

TICKS = os.sysconf("SC_CLK_TCK")
CLASSES = 1000
# Images after which a loop runs steadily: what was made ahead of its first batch is used up.
WARM_UP = 1024
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
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


Settings = argparse.Namespace
Batches = Iterator[tuple[Any, Any]]


def forever(loader: Any) -> Batches:
    while True:
        yield from loader


def from_forebay(settings: Settings, source: Any = None, **changes: Any) -> Batches:
    changes = {"batch": settings.batch, "microbatches": 1, **changes}
    options: dict[str, Any] = {} if source else {"threads": settings.workers}
    return forever(forebay.torch.Loader(source or settings.path, set=changes, num_classes=CLASSES, **options))


def served(settings: Settings, listen: str) -> tuple[subprocess.Popen[str], str]:
    """A server of the path, and its endpoint."""
    serve = [sys.executable, "-m", "forebay", "serve", "--listen", listen, "--threads", str(settings.workers)]
    server = subprocess.Popen(
        [*serve, "--device", "cpu", "--dataset", f"train={settings.path}"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    atexit.register(server.kill)
    assert server.stdout is not None
    address = server.stdout.readline().removeprefix("listening on ").strip()
    return server, address if address.startswith("unix:") else f"http://{address}"


def from_server(settings: Settings, listen: str) -> Batches:
    return from_forebay(settings, served(settings, listen)[1])


def from_socket(settings: Settings) -> Batches:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return from_server(settings, f"unix:{folder}/s")


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
    "forebay, Unix socket": from_socket,
    "forebay, TCP": lambda settings: from_server(settings, "127.0.0.1:0"),
    "torch DataLoader + timm": from_timm,
    "torch DataLoader + torchvision v2": from_torchvision,
}


def take(batches: Batches, images: int) -> int:
    taken = 0
    while taken < images:
        taken += len(next(batches)[0])
    return taken


def measured(settings: Settings) -> dict[str, float]:
    """A loop, in this process."""
    # Imports do not count for a first batch.
    for module in ("timm.data", "torchvision.transforms.v2", "torchvision.datasets"):
        __import__(module)
    before, begin = of_all(megabytes), time.perf_counter()
    batches = LOADERS[settings.loop](settings)
    next(batches)
    result = {"first": time.perf_counter() - begin}
    if len(family()) == 1:
        sys.exit("another process has started the server of this path: end it, or its CPU time is not counted")
    take(batches, WARM_UP)
    cpu, thread = of_all(cpu_seconds), time.thread_time()
    taken = take(batches, settings.images)
    result["thread"] = 1e3 * (time.thread_time() - thread) / taken
    result["cpu"] = 1e3 * (of_all(cpu_seconds) - cpu) / taken
    result["memory"] = of_all(megabytes) - before
    return result | (sampled(batches) if settings.sample else {})


def sampled(batches: Batches) -> dict[str, float]:
    """Counts the samples in which a thread of this process had the GIL."""
    samples = Path(tempfile.mkdtemp()) / "samples"
    atexit.register(shutil.rmtree, samples.parent, ignore_errors=True)
    record = ["py-spy", "record", "--gil", "--nonblocking", "--pid", str(os.getpid()), "--rate", str(RATE)]
    with subprocess.Popen(
        [*record, "--duration", str(SAMPLED), "--format", "raw", "--output", str(samples)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as spy:
        taken, begin = 0, time.perf_counter()
        while spy.poll() is None:
            taken += take(batches, 1)
        seconds = time.perf_counter() - begin
    if spy.returncode != 0:
        print(f"py-spy ended with exit code {spy.returncode}: it must be allowed to trace", file=sys.stderr)
        return {}
    share = sum(int(line.rsplit(" ", 1)[1]) for line in samples.read_text().splitlines()) / (RATE * SAMPLED)
    # py-spy takes longer than it samples.
    return {"share": share, "gil": 1e3 * share * seconds / taken}


def interrupted(wait: Callable[[threading.Event], object], delay: float) -> float | None:
    """Seconds from a SIGINT, some time after the event that the wait sets, to its KeyboardInterrupt; None if it has ended
    before."""
    begun, ended, sent = threading.Event(), threading.Event(), [0.0]

    def send() -> None:
        begun.wait()
        if not ended.wait(delay):
            sent[0] = time.perf_counter()
            os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        wait(begun)
        ended.set()
        sender.join()
    except KeyboardInterrupt:
        seconds = time.perf_counter() - sent[0]
        sender.join()
        return seconds
    return None


def measure_interrupts(settings: Settings) -> None:
    """Prints how long Ctrl-C takes in each wait."""
    warnings.simplefilter("ignore", forebay.ForebayWarning)
    server, endpoint = served(settings, "127.0.0.1:0")
    changes = {"batch": settings.batch, "microbatches": 1}
    options: dict[str, Any] = {"set": changes, "prefetch_bytes": 0, "shared_memory": "off"}

    def in_next(begun: threading.Event) -> None:
        with forebay.Loader(endpoint, **options) as loader:
            batches = iter(loader)
            next(batches)
            server.send_signal(signal.SIGSTOP)
            begun.set()
            # The server sends nothing more than what is on the way.
            for _ in batches:
                pass

    def in_describe(begun: threading.Event) -> None:
        server.send_signal(signal.SIGSTOP)
        begun.set()
        forebay.Loader(endpoint, **options)

    def in_close(begun: threading.Event) -> None:
        loader = forebay.Loader(endpoint, **options)
        batches = iter(loader)
        next(batches)
        begun.set()
        loader.close()
        # Until the signal comes, if that was too short for it.
        time.sleep(60)

    def in_indexing(begun: threading.Event) -> None:
        with tempfile.TemporaryDirectory() as folder:
            begun.set()
            forebay.Loader(settings.path, set=changes, index_dir=folder, threads=1, progress=False).close()

    # Any moment between two looks at signals, once it waits; a close takes less than a millisecond.
    waits = [("next", in_next, 0.4, 0.1), ("describe", in_describe, 0.2, 0.1), ("close", in_close, 0.0, 0.001)]
    waits.append(("indexing", in_indexing, 0.2, 0.1))
    draw = random.Random(0)
    print(f"Ctrl-C, {settings.interrupts} times each, ms from SIGINT to KeyboardInterrupt:\n")
    print("| while in | median | longest |")
    print("|---|---|---|")
    for name, wait, least, spread in waits:
        times = []
        for _ in range(settings.interrupts):
            seconds = interrupted(wait, least + spread * draw.random())
            server.send_signal(signal.SIGCONT)
            if seconds is None:
                sys.exit(f"{name} ended before its signal: use a larger dataset")
            times.append(1e3 * seconds)
        print(f"| {name} | {statistics.median(times):.1f} | {max(times):.1f} |")


def in_a_process(settings: Settings, name: str, sample: bool) -> dict[str, float]:
    numbers = [f"--{what}={getattr(settings, what)}" for what in ("images", "workers", "batch")]
    command = [sys.executable, __file__, settings.path, *numbers, "--loop", name, *(["--sample"] if sample else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4000, help="of a round")
    parser.add_argument("--workers", type=int, default=2, help="threads or processes of each loader")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--interrupts", type=int, metavar="N", help="measure Ctrl-C, N times in each wait")
    parser.add_argument("--only", nargs="*", default=list(LOADERS), choices=list(LOADERS))
    # Of a process that has one loop.
    parser.add_argument("--loop", choices=list(LOADERS), help=argparse.SUPPRESS)
    parser.add_argument("--sample", action="store_true", help=argparse.SUPPRESS)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    if settings.loop:
        print(json.dumps(measured(settings)))
        return
    # The index does not count for a first batch. The server of this has ended before the first loop has its imports.
    forebay.Loader(settings.path, set={"batch": settings.batch, "microbatches": 1}).close()
    if settings.interrupts:
        measure_interrupts(settings)
        return
    results: dict[str, list[dict[str, float]]] = {name: [] for name in settings.only}
    for number in range(settings.rounds):
        for name, rounds in results.items():
            rounds.append(in_a_process(settings, name, number == 0 and shutil.which("py-spy") is not None))
    print(f"Per image, batches of {settings.batch}, {settings.workers} workers, median of {settings.rounds} rounds of")
    print(f"{settings.images} images in turns, one thread of torch {torch.__version__}:\n")
    print("| loader | CPU, ms | main thread, ms | GIL, ms (of time) | first batch, s | memory, MB |")
    print("|---|---|---|---|---|---|")
    for name, rounds in results.items():
        cpu, thread, first, memory = (
            statistics.median(result[what] for result in rounds) for what in ("cpu", "thread", "first", "memory")
        )
        gil = f"{rounds[0]['gil']:.3f} ({rounds[0]['share']:.0%})" if "gil" in rounds[0] else "–"
        print(f"| {name} | {cpu:.3f} | {thread:.3f} | {gil} | {first:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
