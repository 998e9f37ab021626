"""Microbatches in the memory of a server on this host: read in place, returned, and nobody else's to write."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import forebay
from conftest import HANG, SHARED, Server, digest, eventually, open_files

# Those of one microbatch for each step.
WHOLE: dict[str, object] = {**SHARED, "microbatches": 1}


def loader(server: Server, **options: Any) -> forebay.Loader:
    options = {"dataset": "train", "recipe": "a3", "set": SHARED, **options}
    return forebay.Loader(server.endpoint, **options)


def mappings(process: int | str = "self") -> int:
    """How many microbatches of a server a process has mapped."""
    maps = Path(f"/proc/{process}/maps").read_text()
    return sum("memfd:forebay" in line for line in maps.splitlines())


def open_memory(process: int | str = "self") -> int:
    """How many of them it has as an open file."""
    return sum("memfd:forebay" in file for file in open_files(process))


def has_settled() -> bool:
    before = mappings()
    time.sleep(0.2)
    return mappings() == before > 4


@pytest.fixture(autouse=True)
def own_memory() -> None:
    """What the last test kept is not counted in this one."""
    gc.collect()


def test_batches_are_read_in_place_and_have_the_bytes_of_copies(local_server: Server, server: Server) -> None:
    with loader(local_server, merge=False) as shared, loader(server, merge=False) as copied:
        for one, other in zip(shared, copied, strict=True):
            assert (one.is_shared, other.is_shared) == (True, False)
            assert digest(one) == digest(other)
        stats, others = shared.stats(), copied.stats()
        assert stats["shared_microbatches"] == stats["microbatches"] == others["microbatches"] == 16
        assert others["shared_microbatches"] == 0
    del one
    eventually("they are returned", local_server.has_all_buffers)


@pytest.mark.parametrize("mode", ["verify", "trust", "off"])
def test_the_mode_is_an_argument(local_server: Server, mode: Any) -> None:
    with loader(local_server, merge=False, shared_memory=mode) as small:
        batches = list(small)
        assert small.stats()["shared_microbatches"] == (0 if mode == "off" else 16)
        assert len(batches) == 16


def test_nobody_can_write_to_the_memory_of_a_server(local_server: Server) -> None:
    with loader(local_server, merge=False) as small:
        batch = next(iter(small))
    pixels = np.asarray(batch.pixels)
    with pytest.raises(ValueError, match="WRITEABLE"):
        pixels.flags.writeable = True
    assert memoryview(batch.pixels).readonly and batch.pixels.__array_interface__["data"][1]
    assert not np.from_dlpack(batch.pixels).flags.writeable
    with pytest.raises(BufferError, match="read-only"):
        batch.pixels.__dlpack__()
    with pytest.raises(TypeError, match="read-write"):
        open("/dev/zero", "rb").readinto(batch.pixels)  # noqa: SIM115
    # The system does not let anyone, whatever Python is told.
    child = os.fork()
    if child == 0:
        import ctypes

        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        ctypes.memset(pixels.ctypes.data, 0, 1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGSEGV


def test_writable_pixels_are_a_copy_of_ones_own(local_server: Server) -> None:
    with loader(local_server, merge=False, writable=True) as written, loader(local_server, merge=False) as small:
        one, other = iter(written), iter(small)
        for _ in range(4):
            batch, expected = next(one), next(other)
            assert not batch.is_shared and not batch.pixels.readonly
            assert digest(batch) == digest(expected)
            content = expected.pixels.tobytes()
            np.asarray(batch.pixels)[:] = 0
            assert expected.pixels.tobytes() == content
        assert written.stats()["shared_microbatches"] == 4


def test_steps_of_one_microbatch_are_not_copied_and_others_once(local_server: Server) -> None:
    with loader(local_server, set=WHOLE) as whole, loader(local_server) as merged:
        for one in whole:
            assert one.is_shared and one.pixels.readonly and len(one) == 32
        for one in merged:
            assert not one.is_shared and one.pixels.readonly and len(one) == 32
        # They were in shared memory until they were joined.
        assert merged.stats()["shared_microbatches"] == 16
    # Each is returned when it is copied: a step that is larger than the window needs no frames.
    changes = {**SHARED, "batch": 128, "microbatches": 16}
    with loader(local_server, set=changes, prefetch_bytes=0) as large:
        assert len(next(iter(large))) == 128
        assert large.stats()["shared_microbatches"] == 16
    with loader(local_server, rank=1, world=4) as rank:
        assert all(batch.is_shared and len(batch) == 8 for batch in rank)
    with loader(local_server, writable=True) as merged, loader(local_server) as expected:
        for one, other in zip(merged, expected, strict=True):
            assert digest(one) == digest(other) and not one.pixels.readonly


def test_batches_stay_right_kept_dropped_in_any_order_and_after_server_and_loader(
    data: Path, servers: Callable[..., Server], tmp_path: Path
) -> None:
    server = servers("--cache-bytes", "0", listen=f"unix:{tmp_path / 's'}")
    draw = random.Random(0)
    with loader(server, merge=False) as small:
        expected = [digest(batch) for _ in range(3) for batch in small]
        small.set_epoch(0)
        kept: list[tuple[int, forebay.Batch]] = []
        views: list[tuple[int, Any]] = []
        for epoch in range(3):
            for count, batch in enumerate(small, 16 * epoch):
                kept.append((count, batch))
                views.append((count, draw.choice((np.asarray, memoryview, np.from_dlpack))(batch.pixels)))
                if len(kept) > 12:
                    kept.pop(draw.randrange(len(kept)))
                if len(views) > 12:
                    views.pop(draw.randrange(len(views)))
        assert any(batch.is_shared for _, batch in kept)
    server.kill()
    del small, batch
    gc.collect()
    for count, batch in kept:
        assert digest(batch) == expected[count]
    for count, view in views:
        assert view.tobytes() == expected[count][3]


def _read(batch: forebay.Batch, pipe: Any) -> None:
    pipe.send((mappings(), open_memory(), batch.pixels.tobytes()))
    pipe.recv()
    pipe.send(batch.pixels.tobytes())
    pipe.recv()
    os._exit(0)


def test_a_forked_process_reads_what_it_has_and_keeps_nothing_else(
    servers: Callable[..., Server], tmp_path: Path
) -> None:
    server = servers("--cache-bytes", "0", listen=f"unix:{tmp_path / 's'}")
    small = loader(server, merge=False, prefetch_bytes=1 << 20)
    batches = iter(small)
    batch = next(batches)
    content = batch.pixels.tobytes()
    # What was received ahead.
    eventually("all of that is there", has_settled)
    here, there = multiprocessing.get_context("fork").Pipe()
    child = multiprocessing.get_context("fork").Process(target=_read, args=(batch, there))
    child.start()
    assert here.recv() == (1, 0, content)
    del batch
    # The loader goes on, while the child has a microbatch of it, and then ends.
    assert len(list(batches)) == 15
    small.close()
    del batches
    gc.collect()
    assert mappings() == 0
    here.send(None)
    assert here.recv() == content
    assert not server.has_all_buffers()
    here.send(None)
    child.join(HANG)
    eventually("the buffer is returned", server.has_all_buffers)


def test_a_forked_process_returns_what_it_drops_and_disturbs_nobody(
    servers: Callable[..., Server], tmp_path: Path
) -> None:
    server = servers("--cache-bytes", "0", listen=f"unix:{tmp_path / 's'}")
    with loader(server, merge=False, prefetch_bytes=1 << 20) as small:
        batches = iter(small)
        batch = next(batches)
        expected = batch.pixels.tobytes()
        # What arrives during a fork may be inherited.
        eventually("all that is received ahead is there", has_settled)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                before = mappings()
                assert batch.pixels.tobytes() == expected
                # The last reference of the child.
                del batch
                gc.collect()
                code = 0 if (before, mappings()) == (1, 0) else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert batch.pixels.tobytes() == expected
        del batch
        # The connection was not closed by a lease that was returned twice.
        rest = [batch.is_shared for batch in batches]
        assert len(rest) == 15 and all(rest)


def test_workers_of_torch_read_a_batch_that_they_inherit(local_server: Server) -> None:
    torch = pytest.importorskip("torch")
    with loader(local_server, merge=False) as small:
        batches = iter(small)
        batch = next(batches)
        pixels = np.asarray(batch.pixels)
        expected = pixels.reshape(8, -1).astype(np.int64).sum(1).tolist()

        class Images(torch.utils.data.Dataset):  # type: ignore[misc,name-defined]
            def __len__(self) -> int:
                return 8

            def __getitem__(self, index: int) -> int:
                return int(pixels[index].astype(np.int64).sum())

        workers = torch.utils.data.DataLoader(Images(), 2, num_workers=2, multiprocessing_context="fork")
        assert [value for pair in workers for value in pair.tolist()] == expected
        assert len(list(batches)) == 15


def test_a_killed_trainer_returns_all(servers: Callable[..., Server], tmp_path: Path) -> None:
    server = servers("--cache-bytes", "0", listen=f"unix:{tmp_path / 's'}")
    code = """
import sys, time, forebay
changes = {"image_size": 64, "batch": 32, "microbatches": 4}
loader = forebay.Loader(sys.argv[1], dataset="train", recipe="a3", set=changes, merge=False)
kept = [batch for batch, _ in zip(loader, range(6))]
assert all(batch.is_shared for batch in kept)
print("started", flush=True)
time.sleep(600)
"""
    trainer = subprocess.Popen([sys.executable, "-c", code, server.endpoint], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None and trainer.stdout.readline() == "started\n"
    assert not server.has_all_buffers()
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    eventually("its buffers are returned", server.has_all_buffers)
    with loader(server, merge=False) as small:
        assert len(list(small)) == small.stats()["shared_microbatches"] == 16


def test_loaders_of_one_process_share_and_end_by_themselves(local_server: Server) -> None:
    with loader(local_server, merge=False) as one, loader(local_server, merge=False, dtype="f32") as two:
        for (first, second), _ in zip(zip(one, two, strict=True), range(9), strict=False):
            assert first.records.tolist() == second.records.tolist()
            assert first.is_shared and second.is_shared
        one.close()
        assert second.pixels.tobytes() and len(list(two)) == 16
        assert len(first.pixels.tobytes()) == 8 * 64 * 64 * 3


def test_jax_does_not_write_to_what_it_aliases(local_server: Server) -> None:
    jax = pytest.importorskip("jax")
    import forebay.jax as fj

    options: dict[str, Any] = {"dataset": "train", "recipe": "a3", "set": WHOLE, "dtype": "f32"}
    with fj.Loader(local_server.endpoint, **options) as small, loader(local_server, set=WHOLE, dtype="f32") as plain:
        double = jax.jit(lambda image: image * 2, donate_argnums=0)
        for arrays, batch in zip(small, plain, strict=True):
            doubled = double(arrays["image"])
            assert (np.asarray(doubled) == 2 * np.asarray(batch.pixels)).all()
        assert small.stats()["shared_microbatches"] == 4
