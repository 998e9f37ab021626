"""Counts the bytes and multiply-adds of the GPU kernels from their source, and prints docs/gpu-floors.md.

    python3 tests/kernels/floors.py > docs/gpu-floors.md

`--check` compares the file with what would be printed. `--json FILE` writes what a GPU's measurements are compared with, as
`tests/gpu/bundle.sh` packs it. Needs nothing but Python.

    floors.py       what each kernel moves and multiplies
    resnet50.py     the operations of the network
    model.py        the time that this takes
    predictions.py  of whole steps, and of changes to them
    page.py         the document
"""

import json
import re
import sys
from pathlib import Path

import page
import predictions
import resnet50
from model import A100, H100, Work
from resnet50 import Classifier, Conv, MaxPool, MeanPool, Norm

ROOT = Path(__file__).resolve().parent.parent.parent
KERNELS = ROOT / "client/trainer/src/backend/cuda/kernels"
DOCUMENT = ROOT / "docs/gpu-floors.md"
# The samples of the microbatch whose bytes are being counted, which `step` sets.
BATCH = 256

# Loads and stores of tensors in the source of each kernel; lamb_apply has a second store for an update that is skipped. If they change, the counts below must be updated.
SOURCE = {
    "norm_sums": (2, 0), "norm_apply": (2, 1), "norm_reduce": (2, 0), "norm_reduce_residual": (2, 1), "norm_backward": (2, 2),
    "max_pool": (1, 1), "max_pool_backward": (1, 1), "mean_pool": (1, 1), "mean_pool_backward": (1, 1),
    "store_pixel": (0, 2), "square_sums": (1, 0), "lamb_direction": (4, 3), "lamb_apply": (2, 4),
    "add_gradients": (2, 1),
}


# Published images/s of others, with their sources.
REPORTED = {
    "PyTorch, AMP": (2470, A100, "NVIDIA DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5, 21.03"),
    "MXNet, fp16, fused norms": (3410, A100, "NVIDIA DeepLearningExamples, MxNet/Classification/RN50v1.5, 22.10"),
    "MLPerf 3.0, MXNet": (7300, H100, "8 H100 in 13.466 minutes, if in 37 epochs: an estimate, for one of them"),
}


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
    chunks = min(-(-rows // (256 // min(groups, 32) * 4)), 432 // -(-groups // 32))
    return chunks * 2 * op.x.channels * 4


def norm(op):
    """norm.cu."""
    x, sums = 2 * op.x.numbers * BATCH, partials(op)
    # With a residual, one bit per value is kept of ReLU, and the gradient before ReLU is written for the residual.
    mask = op.x.numbers * BATCH / 8
    yield Work("norm_sums", x, sums)
    yield Work("norm_finish", sums, 0)
    yield Work("norm_apply", 2 * x if op.residual else x, x + mask if op.residual else x)
    if op.residual:
        yield Work("norm_reduce_residual", 2 * x + mask, sums + x)
    else:
        yield Work("norm_reduce", 2 * x, sums)
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


def fused(op):
    """The same in f16 by cuDNN's fused operations, which bf16 lacks: `--norms fused`. Convolutions add up the statistics. A norm
    between two convolutions is applied as the second one reads its input, and the gradient's sums are taken where that writes its
    gradient, for which it reads the norm's input."""
    x = 2 * op.x.numbers * BATCH
    between = op.relu and not op.residual and not op.pooled
    # cuDNN has no statistics for the stem.
    for work in norm(op) if op.pooled else counted_before(op):
        if between and work.kernel == "norm_reduce":
            yield Work("norm_reduce", x, 0, launches=0)
        elif not between or work.kernel != "norm_apply":
            yield work


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


def step(pixels, batch, norms=norm):
    """All work of a microbatch of some samples."""
    global BATCH
    BATCH = batch
    ops = resnet50.operations(pixels)
    kinds = {Conv: convolution, Norm: norms, MaxPool: pools, MeanPool: pools, Classifier: classifier}
    works = list(images(ops[0]))
    for op in ops:
        works += kinds[type(op)](op)
    return works + list(update(sum(numbers for numbers, _ in resnet50.parameters(ops))))


def check_source():
    text = "".join(path.read_text() for path in sorted(KERNELS.glob("*.cu")))
    bodies = dict(re.findall(r"(\w+)\([^)]*\) \{(.*?)\n\}", text, re.DOTALL))
    for kernel, counted in SOURCE.items():
        found = tuple(len(re.findall(rf"\b{verb}(?:16|_eight|_copy|_cell)?\(", bodies[kernel])) for verb in ["load", "store"])
        if found != counted:
            sys.exit(f"{kernel} has (loads, stores) {found}, floors.py counted {counted}: count its bytes again")


ALTERNATIVES = {"apart": apart, "counted before": counted_before, "fused": fused}


def main():
    check_source()
    document = page.document(step, update, ALTERNATIVES, REPORTED)
    if "--check" in sys.argv:
        if DOCUMENT.read_text() != document:
            sys.exit("docs/gpu-floors.md is not what tests/kernels/floors.py prints")
    elif "--json" in sys.argv:
        Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps(predictions.as_json(step), indent=1) + "\n")
    else:
        print(document, end="")


main()
