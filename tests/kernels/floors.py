"""Counts the bytes and multiply-adds of the GPU kernels from their source, and prints docs/gpu-floors.md.

    python3 tests/kernels/floors.py > docs/gpu-floors.md

`--check` compares the file with what would be printed. Needs nothing but Python.
"""

import re
import sys
import textwrap
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import resnet50
from resnet50 import Classifier, Conv, MaxPool, MeanPool, Norm

ROOT = Path(__file__).resolve().parent.parent.parent
KERNELS = ROOT / "client/trainer/src/backend/cuda/kernels"
DOCUMENT = ROOT / "docs/gpu-floors.md"
BATCH = 256
PIXELS = 224

# Loads and stores of tensors in the source of each kernel. If they change, the counts below must be updated.
SOURCE = {
    "norm_sums": (2, 0), "norm_apply": (2, 1), "norm_reduce": (3, 1), "norm_backward": (2, 1),
    "max_pool": (1, 1), "max_pool_backward": (1, 1), "mean_pool": (1, 1), "mean_pool_backward": (1, 1),
    "images_bytes": (0, 1), "square_sums": (1, 0), "lamb_direction": (4, 3), "lamb_apply": (2, 3),
    "add_gradients": (2, 1),
}


@dataclass(frozen=True)
class Device:
    """Peaks of NVIDIA's data sheets: bf16 without sparsity, memory, and the reachable rate of PCIe in one direction."""

    name: str
    flops: float
    memory: float
    pcie: float
    # The fraction of the peak that convolutions reach, an assumption.
    convolutions: float


A100 = Device("A100 SXM 80 GB", 312e12, 2.039e12, 25e9, 0.55)
A100_40 = Device("A100 SXM 40 GB", 312e12, 1.555e12, 25e9, 0.55)
H100 = Device("H100 SXM", 989e12, 3.35e12, 50e9, 0.45)
DEVICES = [A100, A100_40, H100]

# Assumptions: the fraction of the memory's peak that kernels reach, and the overhead of a launch in seconds, by itself
# and in a CUDA graph.
BANDWIDTH = 0.85
START = 3e-6
START_IN_GRAPH = 1e-6

# Published images/s of others, with their sources.
REPORTED = {
    "PyTorch, AMP": (2470, A100, "NVIDIA DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5, 21.03"),
    "MXNet, fp16, fused norms": (3410, A100, "NVIDIA DeepLearningExamples, MxNet/Classification/RN50v1.5, 22.10"),
    "MLPerf 3.0, MXNet": (7300, H100, "8 H100 in 13.466 minutes, if in 37 epochs: an estimate, for one of them"),
}


@dataclass(frozen=True)
class Work:
    """The work of a launch, for a whole microbatch."""

    kernel: str
    reads: float
    writes: float
    flops: float = 0.0
    launches: int = 1

    @property
    def bytes(self):
        return self.reads + self.writes

    def floor(self, device):
        return max(self.flops / device.flops, self.bytes / device.memory)

    def expected(self, device, start=START):
        flops = self.flops / (device.flops * device.convolutions)
        return max(flops, self.bytes / (device.memory * BANDWIDTH)) + self.launches * start


def convolution(op):
    """A convolution of cuDNN, which reads and writes each operand at least once."""
    x, y, weights = [2 * n for n in (op.x.numbers * BATCH, op.y.numbers * BATCH, op.weights)]
    flops = 2.0 * op.products * BATCH
    yield Work("convolutions forward", x + weights, y, flops)
    if not op.first:
        yield Work("convolutions backward data", y + weights + (x if op.adds else 0), x, flops)
    yield Work("convolutions backward filter", x + y, weights, flops)


def partials(op):
    """Bytes of a norm's sums over chunks of rows: `NormTiling` in client/trainer/src/backend/cuda/launch/norm.rs."""
    rows, groups = op.x.height * op.x.width * BATCH, -(-op.x.channels // 8)
    chunk_rows = max(-(-rows // 512), 256 // min(groups, 32) * 4)
    return -(-rows // chunk_rows) * 2 * op.x.channels * 4


def norm(op):
    """norm.cu."""
    x, sums = 2 * op.x.numbers * BATCH, partials(op)
    yield Work("norm_sums", x, sums)
    yield Work("norm_finish", sums, 0)
    yield Work("norm_apply", 2 * x if op.residual else x, x)
    # With a residual, the result gives the mask of ReLU, and the gradient after ReLU is written for the residual.
    yield Work("norm_reduce", 3 * x if op.residual else 2 * x, sums + (x if op.residual else 0))
    yield Work("norm_gradients", sums, 0)
    yield Work("norm_backward", 2 * x, x)


def apart(op):
    """The same with separate kernels for norm, ReLU and sum, each of which reads and writes whole tensors."""
    x = 2 * op.x.numbers * BATCH
    yield Work("norm forward", 2 * x, x)
    yield Work("norm backward", 4 * x, x)
    if op.residual:
        yield Work("sum", 2 * x, x)
    if op.relu:
        yield Work("ReLU forward", x, x)
        yield Work("ReLU backward", 2 * x, x)


def counted_before(op):
    """The same with statistics computed by the convolution as it writes its result."""
    return (work for work in norm(op) if work.kernel != "norm_sums")


def pools(op):
    """pool.cu. Pixels shared by windows are read once, because caches hold them."""
    x = 2 * op.x.numbers * BATCH
    if isinstance(op, MeanPool):
        pooled = 2 * op.x.channels * BATCH
        yield Work("mean_pool", x, pooled)
        yield Work("mean_pool_backward", pooled, x)
        return
    y, taps = 2 * op.y.numbers * BATCH, op.y.numbers * BATCH
    yield Work("max_pool", x, y + taps)
    yield Work("max_pool_backward", y + taps, x)


def classifier(op):
    """cuBLAS, and loss.cu: logits in f32, their slope in bf16."""
    x, logits, weights = 2 * op.features * BATCH, 4 * op.classes * BATCH, op.features * op.classes
    flops = 2.0 * weights * BATCH
    yield Work("classifier", x + 2 * weights, logits, flops)
    yield Work("classifier", x + logits / 2 + 4 * weights, 4 * weights, flops)
    yield Work("classifier", logits / 2 + 2 * weights, x, flops)
    yield Work("bias and loss", logits * 2.5, logits * 1.5, launches=3)


def update(numbers):
    """lamb.cu, after each microbatch: parameters, gradients and moments are f32, the copy bf16."""
    yield Work("add_gradients", (2 + 4) * numbers, 4 * numbers)
    yield Work("square_sums", 4 * numbers, 0, launches=2)
    yield Work("lamb_direction", 16 * numbers, 12 * numbers, launches=2)
    yield Work("lamb_apply", 8 * numbers, (4 + 4 + 2) * numbers)


def images(first):
    """The copy in, and images_bytes."""
    received = 3 * (first.x.height - 6) * (first.x.width - 6) * BATCH
    yield Work("copy in", 0, received)
    yield Work("images_bytes", received, 2 * first.x.numbers * BATCH)


def step(pixels, norms=norm):
    """All work of a microbatch."""
    ops = resnet50.operations(pixels)
    yield from images(ops[0])
    kinds = {Conv: convolution, Norm: norms, MaxPool: pools, MeanPool: pools, Classifier: classifier}
    for op in ops:
        yield from kinds[type(op)](op)
    yield from update(sum(numbers for numbers, _ in resnet50.parameters(ops)))


def check_source():
    text = "".join(path.read_text() for path in sorted(KERNELS.glob("*.cu")))
    bodies = dict(re.findall(r"(\w+)\([^)]*\) \{(.*?)\n\}", text, re.DOTALL))
    for kernel, counted in SOURCE.items():
        found = tuple(len(re.findall(rf"\b{verb}(?:16|_eight|_copy)?\(", bodies[kernel])) for verb in ["load", "store"])
        if found != counted:
            sys.exit(f"{kernel} has (loads, stores) {found}, floors.py counted {counted}: count its bytes again")


def row(*cells):
    return "| " + " | ".join(cells) + " |"


def head(*cells):
    return [row(*cells), "|" + "---|" * len(cells)]


def mega(number):
    return f"{number / BATCH / 1e6:.2f}"


def micro(seconds):
    return f"{seconds / BATCH * 1e6:.2f}"


def rate(seconds):
    """Formats three digits."""
    images = BATCH / seconds
    return f"{round(images, 2 - len(str(int(images))) + 1):,.0f}"


def by_kernel():
    """Yields one row per kernel, with the sum of its launches."""
    found = defaultdict(list)
    for work in sorted(step(PIXELS), key=lambda work: not work.kernel.startswith("convolutions")):
        found[work.kernel].append(work)
    yield from head("kernel", "launches", "MB read", "MB written", "GFLOP", "A100 floor, µs", "H100 floor, µs")
    for kernel, works in found.items():
        yield table_row(kernel, works)
    yield table_row("**all**", [work for works in found.values() for work in works])


def table_row(name, works):
    flops = sum(work.flops for work in works) / BATCH / 1e9
    return row(name, str(sum(work.launches for work in works)), mega(sum(work.reads for work in works)),
               mega(sum(work.writes for work in works)), f"{flops:.2f}" if flops else "",
               micro(sum(work.floor(A100) for work in works)), micro(sum(work.floor(H100) for work in works)))


def predictions():
    def line(name, works, time):
        return row(name, *[rate(sum(time(work, device) for work in works)) for device in DEVICES])

    def in_graph(work, device):
        return work.expected(device, START_IN_GRAPH)

    yield from head("images/s", *[device.name for device in DEVICES])
    works = list(step(PIXELS))
    yield line("as written: floor", works, Work.floor)
    yield line("**as written: expected**", works, Work.expected)
    yield line("expected, launched as a CUDA graph", works, in_graph)
    yield line("and with the statistics taken by the convolutions", list(step(PIXELS, counted_before)), in_graph)
    yield line("expected, were norm, sum and ReLU kernels of their own", list(step(PIXELS, apart)), Work.expected)
    yield line("160 pixels (recipe a3): floor", list(step(160)), Work.floor)
    yield line("160 pixels (recipe a3): expected", list(step(160)), Work.expected)
    for name, (images, on, _) in REPORTED.items():
        yield row(f"reported: {name}", *[f"{images:,}" if device is on else "" for device in DEVICES])


def sensitivity():
    """The results that depend on the assumptions."""
    works = list(step(PIXELS))
    for device in [A100, H100]:
        low, high = [
            rate(sum(work.expected(Device(device.name, device.flops, device.memory, device.pcie, part)) for work in works))
            for part in (device.convolutions - 0.1, device.convolutions + 0.1)
        ]
        yield f"{low} to {high} on an {device.name.split()[0]}"


def mixing():
    sample = 3 * PIXELS * PIXELS
    yield from head("out", "kernel reads, MB", "writes, MB", "A100 kernel, ms", "H100 kernel, ms", "A100 copy in, out, ms",
                    "H100 copy in, out, ms", "A100 images/s", "H100 images/s")
    for name, width in [("u8", 1), ("f16, bf16", 2), ("f32", 4)]:
        read, written = BATCH * (sample + 32), BATCH * sample * width
        kernels = [f"{(read + written) / device.memory * 1e3:.3f}" for device in (A100, H100)]
        copies = [f"{BATCH * sample / device.pcie * 1e3:.2f}, {written / device.pcie * 1e3:.2f}" for device in (A100, H100)]
        rates = [rate(written / device.pcie) for device in (A100, H100)]
        yield row(name, f"{read / 1e6:.1f}", f"{written / 1e6:.1f}", *kernels, *copies, *rates)


def wrapped(block):
    """A paragraph in lines of at most 120 columns; headings, tables and lists as they are."""
    if block.lstrip().startswith(("#", "|", "- ")):
        return block
    end = "\n" if block.endswith("\n") else ""
    return textwrap.fill(block, 120, break_long_words=False, break_on_hyphens=False) + end


def document():
    works, numbers = list(step(PIXELS)), sum(n for n, _ in resnet50.parameters(resnet50.operations(PIXELS)))
    kept = [work for work in works if work.kernel in ("norm_finish", "norm_gradients")]
    lamb = [work for work in update(numbers) if work.kernel != "add_gradients"]
    reported = [f"- {name}: {source}" for name, (_, _, source) in REPORTED.items()]
    text = TEXT.format(
        mixing="\n".join(mixing()),
        kernels="\n".join(by_kernel()),
        predictions="\n".join(predictions()),
        sensitivity=" and ".join(sensitivity()),
        reported="\n".join(reported),
        batch=BATCH,
        launches=sum(work.launches for work in works),
        gflop=f"{sum(work.flops for work in works) / BATCH / 1e9:.1f}",
        traffic=f"{sum(work.bytes for work in works) / BATCH / 1e6:.0f}",
        sums=f"{2 * sum(work.bytes for work in kept) / BATCH / 1e6:.1f}",
        lamb=f"{sum(work.bytes for work in lamb) / 1e9:.2f}",
        parameter=sum(work.bytes for work in lamb) // numbers,
        feed=f"{3 * PIXELS * PIXELS * BATCH / sum(work.expected(H100) for work in works) / 1e9:.1f}",
        peaks="\n".join(f"- {d.name}: {d.flops / 1e12:.0f} TFLOP/s, {d.memory / 1e12:.3f} TB/s, PCIe {d.pcie / 1e9:.0f} GB/s"
                        for d in DEVICES),
        bandwidth=round(BANDWIDTH * 100),
        expected=rate(sum(work.expected(H100) for work in works)),
        mlperf=f"{REPORTED['MLPerf 3.0, MXNet'][0]:,}",
        start=round(START * 1e6),
        graph=round(START_IN_GRAPH * 1e6),
        a100=round(A100.convolutions * 100),
        h100=round(H100.convolutions * 100),
    )
    return "\n\n".join(wrapped(block) for block in text.split("\n\n"))


TEXT = """\
# Floors on paper

What the kernels must move and multiply, as they are written, and the time that this takes at best. Printed by
`tests/kernels/floors.py`; **none of it was measured on a GPU**. Peaks, and what is taken for PCIe:

{peaks}

## Mixing

A batch of {batch} at 224 pixels, u8 NHWC in, by `src/mix/kernels/mix.cu`:

{mixing}

The kernels do just that: a thread takes 16 bytes of a sample and of its partner and writes both, so each pixel is read once and
written once, by 16-byte accesses (`tests/kernels/check.py` counts them in the machine code), with 32 bytes of plan a sample.
So their floor is the memory's. Copies in and out overlap each other and the kernels, and PCIe bounds a server: the last columns.

## Training

ResNet-50, bf16, a microbatch of {batch} at 224 pixels and an update after each; all for one image. A kernel's floor is the longer
of its bytes at the memory's peak and its multiply-adds at that of the tensor cores:

{kernels}

{gflop} GFLOP and {traffic} MB an image, in {launches} launches a microbatch. Each tensor is counted as often as a kernel goes over it, as if
no cache kept it from one kernel to the next. Of the norms' bytes, {sums} MB are sums of chunks that the next kernel reads, which the
L2 cache can hold. LAMB moves {lamb} GB an update, {parameter} bytes a parameter. A moving average of the model is not counted, nor are other ranks.

{predictions}

*Expected* is the floor under assumptions: {bandwidth} % of the memory's peak; of the tensor cores' {a100} % on an A100 and {h100} % on an H100;
{start} µs a launch, {graph} in a CUDA graph. The third digit means nothing: convolutions that reach 10 points less or more make
{sensitivity}. PyTorch runs norm, sum and ReLU as kernels of their own, MXNet fuses
them. From an A100 to an H100 the tensor cores gained more than the memory, so there each pass over a tensor weighs more: as written,
{expected} images/s are expected beside MLPerf's {mlperf}, and the rows between tell what fewer passes and cheaper launches are worth.

Reported by:

{reported}

An H100 at the expected rate takes {feed} GB/s of pixels, a small part of its PCIe.
"""


def main():
    check_source()
    if "--check" in sys.argv:
        if DOCUMENT.read_text() != document():
            sys.exit("docs/gpu-floors.md is not what tests/kernels/floors.py prints")
        return
    print(document(), end="")


main()
