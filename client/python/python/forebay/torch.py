"""Batches as torch tensors, on a device."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import torch
from torch.utils.dlpack import from_dlpack

from ._arguments import invalid, of_targets
from ._batch import Batch
from ._errors import OptionsError
from ._loader import Loader as _Loader
from ._loader import State
from ._source import Source
from ._types import Description
from ._wrapped import Wrapped

Targets = Literal["dense", "sparse", "index"]

_DTYPES: dict[torch.dtype, Literal["u8", "f16", "bf16", "f32"]] = {
    torch.uint8: "u8",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float32: "f32",
}


class Loader(Wrapped):
    """Gives `(images, targets)` as tensors.

    Images are of shape (N, 3, H, W), in memory as channels_last, which torch's convolutions prefer: the
    permutation copies nothing. On a GPU, batches are copied from page-locked memory by a stream of their
    own, one batch ahead.

    Args:
        source: As for `forebay.Loader`, whose arguments are accepted, too.
        device: The device of the tensors; the CPU by default.
        dtype: Of images: `torch.uint8`, or normalized `torch.float32`, `torch.float16`, `torch.bfloat16`.
        targets: `dense`, float32 of shape (N, classes) as timm's `mixup_target` makes them; `sparse`, the
            tensors `(label_a, label_b, lam)`; or `index`, one label for each image, for recipes that do
            not mix.
        num_classes, smoothing: Of dense targets; by default the dataset's and the recipe's.
        normalized_by: `device`, so that a quarter of the bytes is sent, or `server`. The bits are the same:
            those of timm's prefetcher.
        rank, world: By default those of `torch.distributed`, if it is initialized, or of torchrun's variables.
    """

    def __init__(
        self,
        source: Source,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        layout: Literal["nhwc", "nchw"] = "nhwc",
        targets: Targets = "dense",
        num_classes: int | None = None,
        smoothing: float | None = None,
        normalized_by: Literal["device", "server"] = "device",
        rank: int | None = None,
        world: int | None = None,
        **options: Any,
    ) -> None:
        # Also something that has no hash.
        if not any(dtype is known for known in _DTYPES):
            expected = ", ".join(str(known) for known in _DTYPES)
            raise invalid("dtype", dtype, f"one of {expected}")
        if targets not in ("dense", "sparse", "index"):
            raise invalid("targets", targets, '"dense", "sparse" or "index"')
        if normalized_by not in ("device", "server"):
            raise invalid("normalized_by", normalized_by, '"device" or "server"')
        if "writable" in options:
            raise OptionsError("invalid writable: tensors may be written to where the loader knows it; copy others")
        if rank is None and world is None:
            rank, world = _rank_and_world()
        try:
            self.device = torch.device("cpu" if device is None else device)
        except (RuntimeError, TypeError) as error:
            raise invalid("device", device, 'a torch.device, or its name, such as "cuda"') from error
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise OptionsError(f"invalid device {str(self.device)!r}: torch finds no GPU")
        self._dtype, self._layout, self._targets = dtype, layout, targets
        self._num_classes, self._smoothing = of_targets(num_classes, smoothing)
        self._is_normalized = normalized_by == "server" or dtype == torch.uint8
        self.loader = _Loader(
            source,
            dtype=_DTYPES[dtype] if self._is_normalized else "u8",
            layout=layout,
            rank=rank,
            world=world,
            # torch knows no read-only tensors. Those that are copied to a device or normalized are only read.
            writable=self._is_normalized and self.device.type == "cpu",
            **options,
        )
        # The state after the last batch that was yielded, while one is copied ahead of it.
        self._yielded: State | None = None

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any]]:
        if self.device.type == "cuda":
            return _CopiedAhead(self, iter(self.loader))
        # Not a generator, which an exception such as that of Ctrl-C would end.
        return map(self._placed, self.loader)

    # What trainers look for in a torch DataLoader.

    @property
    def sampler(self) -> Loader:
        """Itself, which has `set_epoch`."""
        return self

    @property
    def batch_sampler(self) -> None:
        """None: batches are made elsewhere."""
        return None

    @property
    def dataset(self) -> Dataset:
        """Number of samples and the names of classes."""
        return Dataset(self.loader.describe())

    @property
    def batch_size(self) -> int:
        """Images of a batch."""
        return self.loader.images_per_batch

    def set_epoch(self, epoch: int) -> Self:
        self._yielded = None
        return super().set_epoch(epoch)

    def state_dict(self) -> State:
        return super().state_dict() if self._yielded is None else self._yielded

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._yielded = None

    # From a batch to tensors.

    def _placed(self, batch: Batch) -> tuple[torch.Tensor, Any]:
        pixels = from_dlpack(batch.pixels).to(self.device)
        return self._images(pixels), _moved(self._targets_of(batch), self.device)

    def _images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalized images, in the order of torch."""
        is_last = self._layout == "nhwc"
        if not self._is_normalized:
            description = self.loader.describe()
            shape = (1, 1, 1, 3) if is_last else (1, 3, 1, 1)
            mean, std = (
                torch.tensor([255 * value for value in values], device=pixels.device).reshape(shape)
                for values in (description["mean"], description["std"])
            )
            # In the arithmetic of timm's PrefetchLoader, which is the server's, too.
            pixels = pixels.float().sub_(mean).div_(std).to(self._dtype)
        return pixels.permute(0, 3, 1, 2) if is_last else pixels

    def _targets_of(self, batch: Batch) -> torch.Tensor | tuple[torch.Tensor, ...]:
        if self._targets == "dense":
            return from_dlpack(batch.targets(self._num_classes, self._smoothing))
        # Copies, because these are small, and torch knows no read-only tensors.
        a, b, lam = (
            from_dlpack(array, copy=True) for array in (batch.label_a, batch.label_b, batch.lam)
        )
        if self._targets == "sparse":
            return a, b, lam
        if not bool((lam == 1).all()):
            raise OptionsError(
                'invalid targets "index": the recipe mixes images, each of which then has two labels; use '
                '"dense" or "sparse", or turn mixing off: set={"mix.mixup": 0, "mix.cutmix": 0}'
            )
        return a


class Dataset:
    """What trainers ask of a dataset."""

    def __init__(self, description: Description) -> None:
        self._samples = description["samples_per_epoch"]
        self.classes = description["classes"]

    def __len__(self) -> int:
        """Samples of an epoch."""
        return self._samples


class _CopiedAhead(Iterator[tuple[torch.Tensor, Any]]):
    """A pass whose batches are copied to a GPU one ahead, by a stream of their own.

    A batch is first copied to page-locked memory, of which there are two pieces for the whole pass; a piece
    is used again once the copy from it has ended.
    """

    def __init__(self, loader: Loader, batches: Iterator[Batch], cuda: Any = torch.cuda) -> None:
        self._loader, self._batches, self._cuda = loader, batches, cuda
        self._stream = cuda.Stream(device=loader.device)
        self._pinned: list[torch.Tensor | None] = [None, None]
        self._copied: list[Any] = [None, None]
        self._turn = 0
        # What was copied ahead: images, targets, the event of both, and the state after it.
        self._ahead: tuple[torch.Tensor, Any, Any, State] | None = None
        self._began = False

    def __next__(self) -> tuple[torch.Tensor, Any]:
        if not self._began:
            self._began = True
            self._ahead = self._copy_next()
        if self._ahead is None:
            self._loader._yielded = None
            raise StopIteration
        images, targets, copied, state = self._ahead
        self._ahead = self._copy_next()
        current = self._cuda.current_stream(self._loader.device)
        current.wait_event(copied)
        # Their memory may not be used again by the side stream while the current one reads it.
        for tensor in (images, *(targets if isinstance(targets, tuple) else (targets,))):
            tensor.record_stream(current)
        self._loader._yielded = state
        return images, targets

    def _copy_next(self) -> tuple[torch.Tensor, Any, Any, State] | None:
        batch = next(self._batches, None)
        if batch is None:
            return None
        state = self._loader.loader.state_dict()
        pixels = self._locked(from_dlpack(batch.pixels))
        targets = self._loader._targets_of(batch)
        with self._cuda.stream(self._stream):
            pixels = pixels.to(self._loader.device, non_blocking=True)
            images = self._loader._images(pixels)
            # Small, and from pageable memory: the copy has ended when this returns.
            targets = _moved(targets, self._loader.device)
            copied = self._cuda.Event()
            copied.record(self._stream)
        self._copied[self._turn] = copied
        self._turn = 1 - self._turn
        return images, targets, copied, state

    def _locked(self, pixels: torch.Tensor) -> torch.Tensor:
        """A copy in page-locked memory, once the last copy from there has ended."""
        copied, memory = self._copied[self._turn], self._pinned[self._turn]
        if copied is not None:
            copied.synchronize()
        if memory is None or memory.dtype != pixels.dtype or memory.numel() < pixels.numel():
            memory = torch.empty(pixels.numel(), dtype=pixels.dtype, pin_memory=self._cuda.is_available())
            self._pinned[self._turn] = memory
        return memory[: pixels.numel()].view(pixels.shape).copy_(pixels)


def _moved(targets: Any, device: torch.device) -> Any:
    if isinstance(targets, tuple):
        return tuple(part.to(device) for part in targets)
    return targets.to(device)


def _rank_and_world() -> tuple[int | None, int | None]:
    """Of `torch.distributed`, or else of the variables that torchrun sets."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world is None:
        return None, None
    for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
        if not value.isdecimal():
            raise invalid(f"environment variable {name}", value, "a number, as torchrun sets it")
    return int(rank), int(world)
