"""JAX arrays, their state, and sharding over devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import forebay
from conftest import SMALL, Server, run_python

jax = pytest.importorskip("jax")
import forebay.jax as fj  # noqa: E402


def loader(server: Server, **options: Any) -> fj.Loader:
    return fj.Loader(server.endpoint, dataset="train", recipe="a3", set=SMALL, **options)


@pytest.mark.parametrize("dtype", ["u8", "f16", "bf16", "f32"])
def test_arrays_have_the_values_of_the_batch(server: Server, dtype: Any) -> None:
    with loader(server, dtype=dtype) as small, loader(server, dtype=dtype, numpy=True) as plain:
        core = list(small.loader)
        small.loader.set_epoch(0)
        for batch, arrays, own in zip(core, small, plain, strict=True):
            assert isinstance(arrays["image"], jax.Array)
            assert np.asarray(arrays["image"]).tobytes() == batch.pixels.tobytes() == own["image"].tobytes()
            assert str(arrays["image"].dtype) == batch.pixels.dtype
            assert (np.asarray(arrays["target"]) == np.asarray(batch.targets())).all()
            assert not own["image"].flags.writeable


def test_it_shows_itself_and_refuses_wrong_arguments(server: Server) -> None:
    with loader(server) as small:
        assert repr(small) == repr(small.loader).replace("forebay.Loader", "forebay.jax.Loader")
        assert "data:image/png" in small._repr_html_()
        with pytest.raises(TypeError, match="<forebay.jax.Loader of .*iterate over it"):
            small[0]
    for name, value in [("targets", "index"), ("numpy", "yes"), ("num_classes", 1.5), ("dtype", np.float32)]:
        with pytest.raises(forebay.OptionsError, match=f"^invalid {name} .*: expected"):
            loader(server, **{name: value})


def test_arrays_stay_when_the_loader_is_gone(server: Server) -> None:
    with loader(server, dtype="u8") as small:
        arrays = [batch["image"] for batch in small]
        small.loader.set_epoch(0)
        expected = [batch.pixels.tobytes() for batch in small.loader]
    assert [np.asarray(array).tobytes() for array in arrays] == expected


def test_the_state_is_that_of_what_was_yielded(server: Server) -> None:
    with loader(server, targets="sparse") as small, loader(server, targets="sparse") as other:
        batches = iter(small)
        for _ in range(5):
            next(batches)
        other.set_state(small.get_state())
        rest = [next(batches) for _ in range(3)]
        for one, two in zip(rest, other, strict=True):
            assert set(one) == {"image", "label_a", "label_b", "lam"}
            assert all((np.asarray(one[name]) == np.asarray(two[name])).all() for name in one)
            assert one["label_a"].dtype == np.int32


def test_batches_are_sharded_over_devices(server: Server) -> None:
    code = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import forebay.jax
sharding = NamedSharding(Mesh(np.asarray(jax.local_devices()), "batch"), PartitionSpec("batch"))
changes = {"image_size": 64, "batch": 16, "microbatches": 4}
options = dict(dataset="train", recipe="a3", set=changes, dtype="u8")
with forebay.jax.Loader(sys.argv[1], sharding=sharding, **options) as loader, forebay.Loader(sys.argv[1], **options) as core:
    for arrays, batch in zip(loader, core, strict=True):
        image = arrays["image"]
        assert [shard.data.shape[0] for shard in image.addressable_shards] == [4] * 4
        assert np.asarray(image).tobytes() == batch.pixels.tobytes()
print(len(jax.local_devices()), "devices")
"""
    assert run_python(code, server.endpoint) == "4 devices\n"
