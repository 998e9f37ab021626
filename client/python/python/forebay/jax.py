"""Batches as JAX arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
import numpy as np

from ._arguments import flag, invalid, of_targets
from ._batch import Batch
from ._loader import Loader as _Loader
from ._loader import State
from ._source import Source
from ._wrapped import Wrapped


class Loader(Wrapped):
    """Gives a dictionary of arrays for each batch: `image`, and its targets.

    Arrays on the CPU may share memory with the batch, which stays as long as they do and is never written.

    Args:
        source: As for `forebay.Loader`, whose arguments are accepted, too.
        sharding: A `jax.sharding.Sharding` whose first axis divides the batch, such as
            `NamedSharding(Mesh(jax.local_devices(), "batch"), PartitionSpec("batch"))`. By default, arrays
            are on JAX's default device.
        targets: `dense`, with `target` of shape (N, classes); or `sparse`, with `label_a`, `label_b`, `lam`.
        num_classes, smoothing: Of dense targets; by default the dataset's and the recipe's.
        numpy: Whether arrays are numpy's instead of JAX's. They are read-only.
        rank, world: By default JAX's process and their number.
    """

    def __init__(
        self,
        source: Source,
        *,
        dtype: Literal["u8", "f16", "bf16", "f32"] = "f32",
        sharding: Any = None,
        targets: Literal["dense", "sparse"] = "dense",
        num_classes: int | None = None,
        smoothing: float | None = None,
        numpy: bool = False,
        rank: int | None = None,
        world: int | None = None,
        **options: Any,
    ) -> None:
        if targets not in ("dense", "sparse"):
            raise invalid("targets", targets, '"dense" or "sparse"')
        if rank is None and world is None:
            rank, world = jax.process_index(), jax.process_count()
        self._sharding, self._targets, self._numpy = sharding, targets, flag("numpy", numpy)
        self._num_classes, self._smoothing = of_targets(num_classes, smoothing)
        self.loader = _Loader(source, dtype=dtype, rank=rank, world=world, **options)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Not a generator, which an exception such as that of Ctrl-C would end.
        return map(self._placed, self.loader)

    def get_state(self) -> State:
        """What was yielded so far, as Grain's iterators return it."""
        return self.state_dict()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Makes the next pass continue where a state was taken."""
        self.load_state_dict(state)

    def _placed(self, batch: Batch) -> dict[str, Any]:
        arrays: dict[str, Any] = {"image": _numpy(batch.pixels)}
        if self._targets == "dense":
            arrays["target"] = _numpy(batch.targets(self._num_classes, self._smoothing))
        else:
            # JAX has 32-bit integers unless told otherwise.
            arrays["label_a"] = _numpy(batch.label_a).astype(np.int32)
            arrays["label_b"] = _numpy(batch.label_b).astype(np.int32)
            arrays["lam"] = _numpy(batch.lam)
        if self._numpy:
            return arrays
        return {name: jax.device_put(array, self._sharding) for name, array in arrays.items()}


def _numpy(array: Any) -> np.ndarray[Any, Any]:
    """A read-only view."""
    view = np.asarray(array)
    if array.dtype == "bfloat16":
        view = view.view(jax.numpy.bfloat16)
    view.flags.writeable = False
    return view
