"""Memory after 10,000 batches: kept, dropped in any order, and dropped after the loader."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import forebay
from conftest import Server, eventually, open_files

TINY: dict[str, object] = {"image_size": 32, "batch": 2, "microbatches": 1}

COPIED: dict[str, Any] = {"set": TINY, "writable": True}
# The smallest microbatches for shared memory.
SHARED: dict[str, Any] = {"set": {**TINY, "image_size": 64}, "dtype": "f32", "prefetch_bytes": 1 << 20}


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("options", [COPIED, SHARED], ids=["copied", "shared"])
def test_ten_thousand_batches_leave_nothing_behind(
    servers: Callable[..., Server], tmp_path: Path, options: dict[str, Any]
) -> None:
    server = servers("--cache-bytes", "0", listen=f"unix:{tmp_path / 's'}")
    is_shared = options is SHARED
    draw = random.Random(0)
    kept: list[object] = []
    sizes = []
    with forebay.Loader(server.endpoint, dataset="train", recipe="a3", **options) as loader:
        next(iter(loader))
        files = len(open_files())
        for count, batch in zip(range(10_000), _forever(loader), strict=False):
            # One of each way to hold the memory; all are dropped in any order.
            view = draw.choice((lambda b: b, lambda b: np.asarray(b.pixels), lambda b: np.from_dlpack(b.pixels)))
            kept.append(view(batch))
            if len(kept) > 64:
                kept.pop(draw.randrange(len(kept)))
            if count % 1000 == 999:
                gc.collect()
                sizes.append(resident())
        # Batches have no files, but those of an earlier pass keep its connection for shared memory.
        assert len(open_files()) <= files + 16
        # No memory of the server was lost: it still has some to share.
        assert (loader.stats()["shared_microbatches"] > 1000) == is_shared
        if is_shared:
            kept.clear()
            del batch
            # Some of the next batches are copies, because so many were kept.
            batch = next(batch for batch in islice(_forever(loader), 1000) if batch.is_shared)
            kept.append(batch)
    content = [np.asarray(getattr(item, "pixels", item)).tobytes() for item in kept]
    del batch, loader
    gc.collect()
    assert content == [np.asarray(getattr(item, "pixels", item)).tobytes() for item in kept]
    kept.clear()
    eventually("the server has all its buffers", server.has_all_buffers)
    # All batches together have 61 MB, or 1 GB.
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
                sizes.append((resident(), len(open_files()), len(os.listdir("/proc/self/task"))))
    assert sizes[-1][0] - sizes[1][0] < 8 << 20, sizes
    # Connections that are closed are seen to be within a moment.
    assert sizes[-1][1] - sizes[1][1] < 16, sizes
    assert sizes[-1][2] == sizes[1][2], sizes
