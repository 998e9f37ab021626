"""Arrays: read in place by numpy, torch and JAX, and freed when the last of them is gone."""

from __future__ import annotations

import gc
import hashlib
import io
from typing import Any

import numpy as np
import pytest

import forebay
from conftest import SMALL, Server


def loader(server: Server, **options: Any) -> forebay.Loader:
    return forebay.Loader(server.endpoint, dataset="train", recipe="a3", set=SMALL, **options)


@pytest.fixture
def batch(server: Server) -> forebay.Batch:
    with loader(server) as small:
        return next(iter(small))


def test_numpy_reads_in_place_and_may_not_write(batch: forebay.Batch) -> None:
    pixels = np.asarray(batch.pixels)
    assert (pixels.shape, pixels.dtype, pixels.flags.writeable) == ((16, 64, 64, 3), np.uint8, False)
    address = batch.pixels.__array_interface__["data"]
    assert (pixels.ctypes.data, True) == address
    assert pixels.tobytes() == batch.pixels.tobytes()
    assert np.asarray(batch.label_a).dtype == np.int64
    assert np.asarray(batch.lam).tolist() == batch.lam.tolist()
    assert hashlib.sha256(batch.pixels).digest() == hashlib.sha256(pixels.tobytes()).digest()
    assert repr(batch.pixels) == "<forebay.Array (16, 64, 64, 3) uint8, read-only>"
    with pytest.raises((ValueError, TypeError)):
        memoryview(batch.pixels)[0, 0, 0, 0] = 1
    with pytest.raises(TypeError, match="read-write"):
        io.BytesIO(b"1").readinto(batch.pixels)


def test_the_array_interface_describes_the_same_memory(batch: forebay.Batch) -> None:
    class Interface:
        __array_interface__ = batch.pixels.__array_interface__
        owner = batch

    assert (np.asarray(Interface()) == np.asarray(batch.pixels)).all()


def test_writable_pixels_are_written_in_place(server: Server) -> None:
    with loader(server, writable=True) as small:
        batch = next(iter(small))
    np.asarray(batch.pixels)[:] = 7
    assert set(batch.pixels.tobytes()) == {7}


@pytest.mark.parametrize("dtype", ["u8", "f16", "bf16", "f32"])
def test_dlpack_has_every_type_and_says_what_is_read_only(server: Server, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    with loader(server, dtype=dtype, writable=True) as small:
        batch = next(iter(small))
    tensor = torch.from_dlpack(batch.pixels)
    expected = {"u8": torch.uint8, "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
    assert (tensor.dtype, tuple(tensor.shape)) == (expected[dtype], batch.pixels.shape)
    assert tensor.data_ptr() == batch.pixels.__array_interface__["data"][0]
    raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    assert raw == batch.pixels.tobytes()
    assert np.asarray(batch.pixels).itemsize == batch.pixels.itemsize


def test_numpy_knows_read_only_arrays_by_dlpack(batch: forebay.Batch) -> None:
    assert not np.from_dlpack(batch.pixels).flags.writeable
    copied = np.from_dlpack(batch.pixels, copy=True)
    assert copied.flags.writeable
    assert copied.ctypes.data != batch.pixels.__array_interface__["data"][0]
    with pytest.raises(BufferError, match="read-only"):
        batch.pixels.__dlpack__()
    with pytest.raises(BufferError, match="memory of the CPU"):
        batch.pixels.__dlpack__(max_version=(1, 0), dl_device=(2, 0))
    assert batch.pixels.__dlpack_device__() == (1, 0)


def test_capsules_that_nobody_takes_are_freed(server: Server) -> None:
    with loader(server, writable=True) as small:
        batch = next(iter(small))
    for version in (None, (1, 0)):
        capsule = batch.pixels.__dlpack__(max_version=version)
        del capsule
    assert len(batch.pixels.tobytes()) == batch.pixels.nbytes


def test_memory_outlives_batch_loader_and_server(servers: Any) -> None:
    server = servers()
    with loader(server) as small:
        batch = next(iter(small))
        pixels, view = np.asarray(batch.pixels), memoryview(batch.pixels)
        taken = np.from_dlpack(batch.pixels)
        content = batch.pixels.tobytes()
    server.kill()
    del batch, small
    gc.collect()
    assert pixels.tobytes() == content and view.tobytes() == content and taken.tobytes() == content


def test_layouts_have_the_same_pixels(server: Server) -> None:
    with loader(server) as last, loader(server, layout="nchw") as first:
        nhwc, nchw = (np.asarray(next(iter(small)).pixels) for small in (last, first))
    assert nchw.shape == (16, 3, 64, 64)
    assert (nhwc.transpose(0, 3, 1, 2) == nchw).all()


def test_jax_reads_in_place_or_copies(server: Server, batch: forebay.Batch) -> None:
    jax = pytest.importorskip("jax")
    content = batch.pixels.tobytes()
    assert np.asarray(jax.numpy.asarray(np.asarray(batch.pixels))).tobytes() == content
    # JAX does not know version 1 of DLPack, and with it what is read-only.
    with loader(server, writable=True) as small:
        array = jax.numpy.from_dlpack(next(iter(small)).pixels)
    assert np.asarray(array).tobytes() == content
