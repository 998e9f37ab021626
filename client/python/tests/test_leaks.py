"""Memory after 10,000 batches: kept, dropped in any order, and dropped after the loader."""

from __future__ import annotations

import gc
import os
import random
from pathlib import Path

import numpy as np

import forebay

TINY: dict[str, object] = {"image_size": 32, "batch": 2, "microbatches": 1}


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_ten_thousand_batches_leave_nothing_behind(data: Path) -> None:
    draw = random.Random(0)
    kept: list[object] = []
    sizes = []
    with forebay.Loader(data / "train", recipe="a3", set=TINY, threads=1, writable=True) as loader:
        files = open_files()
        for count, batch in zip(range(10_000), _forever(loader), strict=False):
            # One of each way to hold the memory; all are dropped in any order.
            view = draw.choice((lambda b: b, lambda b: np.asarray(b.pixels), lambda b: np.from_dlpack(b.pixels)))
            kept.append(view(batch))
            if len(kept) > 64:
                kept.pop(draw.randrange(len(kept)))
            if count % 1000 == 999:
                gc.collect()
                sizes.append(resident())
        assert open_files() <= files + 2
    content = [np.asarray(getattr(item, "pixels", item)).tobytes() for item in kept]
    del batch, loader
    gc.collect()
    assert content == [np.asarray(getattr(item, "pixels", item)).tobytes() for item in kept]
    # All batches together have 61 MB.
    assert max(sizes[2:]) - sizes[1] < 8 << 20, sizes


def _forever(loader: forebay.Loader):  # type: ignore[no-untyped-def]
    while True:
        yield from loader


def test_loaders_that_come_and_go_leave_nothing_behind(data: Path) -> None:
    sizes = []
    with forebay.Loader(data / "train", recipe="a3", set=TINY, threads=1):
        for count in range(200):
            with forebay.Loader(data / "train", recipe="a3", set=TINY, threads=1) as loader:
                next(iter(loader))
            if count % 50 == 49:
                gc.collect()
                sizes.append((resident(), open_files(), len(os.listdir("/proc/self/task"))))
    assert sizes[-1][0] - sizes[1][0] < 8 << 20, sizes
    # Connections that are closed are seen to be within a moment.
    assert sizes[-1][1] - sizes[1][1] < 16, sizes
    assert sizes[-1][2] == sizes[1][2], sizes
