"""Batches."""

from __future__ import annotations

import json
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from . import _forebay
from ._arguments import integer, invalid, of_targets
from ._errors import OptionsError
from ._forebay import Array, Microbatch
from ._types import Description, Job

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Context:
    """What a batch knows of where it comes from."""

    explain: Callable[[Job, int, int, int], str]
    """Asks for the plan of a microbatch of an epoch and a step. Keeps no loader, nor its share in the server of a path."""
    job: Job
    description: Description


class Parts:
    """The microbatches of a batch as they are received: one, or several that are joined."""

    def __init__(self, wanted: int, writable: bool) -> None:
        self.microbatches: list[Microbatch] = []
        self._wanted, self._writable = wanted, writable
        self._single: Array | None = None
        self._joined: _forebay.Joined | None = None

    def __len__(self) -> int:
        return len(self.microbatches)

    def add(self, microbatch: Microbatch) -> None:
        """Adds the next one."""
        pixels = microbatch.take_pixels()
        self.microbatches.append(microbatch)
        if self._wanted == 1 and not (self._writable and pixels.readonly):
            self._single = pixels
            return
        if self._joined is None:
            self._joined = _forebay.Joined(self._wanted)
        self._joined.append(pixels)

    def pixels(self) -> Array:
        """The pixels of all."""
        if self._joined is not None:
            self._single, self._joined = self._joined.finish(self._writable), None
        assert self._single is not None
        return self._single

    @property
    def is_shared(self) -> bool:
        """Whether the pixels are in the memory of a server."""
        return self._joined is None and self.microbatches[0].is_shared and self.pixels().readonly


class Batch:
    """A microbatch, or a rank's microbatches of a step in one."""

    __slots__ = (
        "_context",
        "epoch",
        "is_shared",
        "label_a",
        "label_b",
        "lam",
        "layout",
        "microbatches",
        "mix",
        "pixels",
        "records",
        "step",
        "wait",
    )

    pixels: Array
    """The images, in the loader's dtype and layout."""
    label_a: Array
    """The class of each image with weight `lam`, int64."""
    label_b: Array
    """The class of each image with weight `1 - lam`, int64."""
    lam: Array
    """Weights, float32."""
    records: Array
    """The record number of each image in the dataset, int64."""
    epoch: int
    step: int
    microbatches: tuple[int, ...]
    """The microbatches of the step that the batch has, in order."""
    mix: list[tuple[Any, ...]]
    """The mix that is left to the trainer, for each image; empty unless `mixed_by="trainer"`."""
    layout: str
    """`"nhwc"` or `"nchw"`."""
    is_shared: bool
    """Whether `pixels` are in the memory of a server on this host, which gets it back with the last array of them."""
    wait: float
    """Seconds in which the trainer waited for it."""

    def __init__(self, context: Context, parts: Parts, layout: str) -> None:
        microbatches = parts.microbatches
        first = microbatches[0]
        self._context = context
        self.epoch, self.step = first.epoch, first.step
        self.microbatches = tuple(microbatch.index for microbatch in microbatches)
        self.mix = [mix for microbatch in microbatches for mix in microbatch.mix]
        self.wait = sum(microbatch.wait for microbatch in microbatches)
        self.layout = layout
        self.is_shared = parts.is_shared
        self.pixels = parts.pixels()
        self.label_a = _joined([microbatch.label_a for microbatch in microbatches])
        self.label_b = _joined([microbatch.label_b for microbatch in microbatches])
        self.lam = _joined([microbatch.lam for microbatch in microbatches])
        self.records = _joined([microbatch.records for microbatch in microbatches])

    def __len__(self) -> int:
        return len(self.label_a)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a batch cannot be pickled: pass copies of its arrays, such as numpy.array(batch.pixels)")

    def __repr__(self) -> str:
        return f"<forebay.Batch of {len(self)} images: epoch {self.epoch}, step {self.step}>"

    def targets(self, num_classes: int | None = None, smoothing: float | None = None) -> Array:
        """Dense targets, float32, of shape (images, classes): bit-equal to timm's `mixup_target`.

        By default, the number of classes is the dataset's, and the label smoothing is the recipe's.
        """
        num_classes, smoothing = of_targets(num_classes, smoothing)
        description = self._context.description
        if num_classes is None:
            num_classes = len(description["classes"])
        if smoothing is None:
            smoothing = description["smoothing"]
        return _forebay.dense_targets(
            self.label_a, self.label_b, self.lam, num_classes, smoothing
        )

    def explain(self) -> list[dict[str, Any]]:
        """The plan of each image: its file, crop, operations, and the mix with its partner.

        The form is that of `samples` of `forebay explain`, in which the mix of the microbatch is added to
        each of its images.

        Raises:
            Error: If the loader of a path is closed, with which its server may have ended.
        """
        plans: list[dict[str, Any]] = []
        for index in self.microbatches:
            context = self._context
            text = context.explain(context.job, self.epoch, self.step, index)
            plan: dict[str, Any] = json.loads(text)
            mix = {"mix_mode": plan["mix"]["mode"], "lambda": plan["mix"]["lambda"]}
            mix["mix_box"] = plan["mix"]["box"]
            plans += [{"microbatch": index, **mix, **sample} for sample in plan["samples"]]
        return plans

    def image(self, i: int) -> Image:
        """Image `i` for Pillow, which must be installed. Only for pixels of dtype `u8`."""
        from PIL import Image

        height, width, rgb = self._rgb(i)
        return Image.frombytes("RGB", (width, height), rgb)

    def preview(self, limit: int = 16, columns: int = 8) -> Image:
        """The first images in one, for Pillow, which must be installed. Only for dtype `u8`."""
        from PIL import Image

        limit, columns = integer("limit", limit, 1), integer("columns", columns, 1)
        count = max(1, min(limit, len(self)))
        height, width, _ = self._rgb(0)
        rows, columns = -(-count // columns), min(columns, count)
        gap = 4
        sheet = Image.new("RGB", (columns * (width + gap), rows * (height + gap)), "white")
        for i in range(count):
            row, column = divmod(i, columns)
            sheet.paste(self.image(i), (column * (width + gap), row * (height + gap)))
        return sheet

    def _repr_html_(self) -> str:
        from . import _html

        return _html.of_batch(self, self._context.description["classes"])

    def _rgb(self, i: int) -> tuple[int, int, bytes]:
        """Height, width and the bytes of an image."""
        if self.pixels.dtype != "uint8":
            raise OptionsError(
                f'images of dtype {self.pixels.dtype} cannot be shown: use a loader with dtype="u8"'
            )
        count = len(self)
        if not isinstance(i, numbers.Integral):
            raise invalid("image", i, "the number of an image, from 0 on")
        if not 0 <= i < count:
            raise IndexError(f"invalid image {i}: the batch has {count}, numbered from 0")
        size = self.pixels.nbytes // count
        data = memoryview(self.pixels).cast("B")[i * size : (i + 1) * size]
        if self.layout == "nhwc":
            _, height, width, _ = self.pixels.shape
            return height, width, data.tobytes()
        _, _, height, width = self.pixels.shape
        rgb = bytearray(size)
        for channel in range(3):
            rgb[channel::3] = data[channel * height * width : (channel + 1) * height * width]
        return height, width, bytes(rgb)


def _joined(arrays: list[Array]) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    joined = _forebay.Joined(len(arrays))
    for array in arrays:
        joined.append(array)
    return joined.finish(writable=False)
