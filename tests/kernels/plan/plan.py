"""Plans every convolution of ResNet-50 with the real cuDNN for described GPUs, and prints docs/cudnn-plans.md.

A plan says that cuDNN has a kernel for the convolution, which engine it takes, how much workspace it wants, and whether it
uses tensor cores and is deterministic. It says nothing about time. Called by run.sh. `--knobs` prints each plan's knobs.
"""

import ctypes
import json
import sys
from collections import Counter
from dataclasses import replace
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import cudnn
import resnet50
from cudnn import NAMES, Descriptor, Refused
from fusions import Fusion, fusible

BATCH = 256
# The value of client/trainer/src/backend/conv_config.rs.
MOST_WORKSPACE = 512 << 20
# The notes that client/trainer/src/backend/cuda/conv/choice.rs refuses in bf16.
UNSUITABLE = {"NONDETERMINISTIC", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION", "FFT", "WINOGRAD",
              "WINOGRAD_TILE_4x4", "WINOGRAD_TILE_6x6", "WINOGRAD_TILE_13x13"}
DIRECTIONS = {"forward": "FORWARD", "backward data": "BWD_DATA", "backward filter": "BWD_FILTER"}
OPERATIONS = {"FORWARD": "FORWARD", "BWD_DATA": "BACKWARD_DATA", "BWD_FILTER": "BACKWARD_FILTER"}


def device(properties):
    text = json.dumps(properties).encode()
    return Descriptor("DEVICEPROP", "DEVICEPROP", JSON_REPRESENTATION=("CHAR", text)).finalize()


def tensor(number, batch, channels, height, width, kind="BFLOAT16"):
    """NHWC, as everywhere in the trainer."""
    return Descriptor(
        "TENSOR", "TENSOR",
        UNIQUE_ID=("INT64", number),
        DATA_TYPE=("DATA_TYPE", NAMES[f"DATA_{kind}"]),
        BYTE_ALIGNMENT=("INT64", 16),
        DIMENSIONS=("INT64", [batch, channels, height, width]),
        STRIDES=("INT64", [channels * height * width, 1, channels * width, channels]),
    ).finalize()


def graph(conv, direction, kind="BFLOAT16", statistics=False):
    """One convolution, with sums in f32; with `statistics`, also the sums of its output and of its squares by channel."""
    x = tensor(1, BATCH, conv.x.channels, conv.x.height, conv.x.width, kind)
    w = tensor(2, conv.y.channels, conv.x.channels, conv.kernel, conv.kernel, kind)
    y = tensor(3, BATCH, conv.y.channels, conv.y.height, conv.y.width, kind)
    geometry = Descriptor(
        "CONVOLUTION", "CONVOLUTION",
        COMP_TYPE=("DATA_TYPE", NAMES["DATA_FLOAT"]),
        CONV_MODE=("CONVOLUTION_MODE", NAMES["CROSS_CORRELATION"]),
        SPATIAL_DIMS=("INT64", 2),
        DILATIONS=("INT64", [1, 1]),
        FILTER_STRIDES=("INT64", [conv.stride] * 2),
        PRE_PADDINGS=("INT64", [conv.pad] * 2),
        POST_PADDINGS=("INT64", [conv.pad] * 2),
    ).finalize()
    names = {"FORWARD": "X W Y", "BWD_DATA": "DX W DY", "BWD_FILTER": "X DW DY"}[direction].split()
    operation = Descriptor(
        f"OPERATION_CONVOLUTION_{OPERATIONS[direction]}", f"OPERATION_CONVOLUTION_{direction}",
        CONV_DESC=("BACKEND_DESCRIPTOR", geometry),
        ALPHA=("FLOAT", 1.0),
        BETA=("FLOAT", float(conv.adds and direction == "BWD_DATA")),
        **{name: ("BACKEND_DESCRIPTOR", t) for name, t in zip(names, (x, w, y))},
    ).finalize()
    operations = [operation, *([sums(conv, y)] if statistics else [])]
    return Descriptor("OPERATIONGRAPH", "OPERATIONGRAPH", OPS=("BACKEND_DESCRIPTOR", operations)).finalize()


def sums(conv, y):
    first, second = (tensor(number, 1, conv.y.channels, 1, 1, "FLOAT") for number in [4, 5])
    return Descriptor(
        "OPERATION_GEN_STATS", "OPERATION_GENSTATS",
        MODE=("GENSTATS_MODE", NAMES["GENSTATS_SUM_SQSUM"]),
        MATH_PREC=("DATA_TYPE", NAMES["DATA_FLOAT"]),
        XDESC=("BACKEND_DESCRIPTOR", y),
        SUMDESC=("BACKEND_DESCRIPTOR", first),
        SQSUMDESC=("BACKEND_DESCRIPTOR", second),
    ).finalize()


class Plan:
    """A plan of one engine. cuDNN checks that it supports the plan when it is created."""

    def __init__(self, config, properties):
        engine = config.fill("ENGINE", "ENGINE", "ENGINE")[0]
        self.engine = engine.get("GLOBAL_INDEX", "INT64")[0]
        numbers = engine.get("NUMERICAL_NOTE", "NUMERICAL_NOTE", NAMES["NUMERICAL_NOTE_TYPE_COUNT"])
        self.notes = {cudnn.names("NUMERICAL_NOTE_", number) for number in numbers}
        plan = Descriptor("EXECUTION_PLAN", "EXECUTION_PLAN", ENGINE_CONFIG=("BACKEND_DESCRIPTOR", config),
                          DEVICEPROP=("BACKEND_DESCRIPTOR", properties)).finalize()
        self.workspace = plan.get("WORKSPACE_SIZE", "INT64")[0]
        text = bytes(plan.get("JSON_REPRESENTATION", "CHAR", 1 << 16)).rstrip(b"\0")
        self.knobs = json.loads(text)["engine"]["knobChoices"]

    @property
    def tensor_cores(self):
        return "TENSOR_CORE" in self.notes

    @property
    def fits(self):
        """The requirements of the trainer on a plan."""
        return not self.notes & UNSUITABLE and self.workspace <= MOST_WORKSPACE


def plans(conv, direction, properties, kind="BFLOAT16", statistics=False):
    """The supported plans of a convolution."""
    return planned(graph(conv, direction, kind, statistics), properties)


def planned(operations, properties):
    """The supported plans of a graph among those that the heuristics propose, best first."""
    heuristics = Descriptor(
        "ENGINEHEUR", "ENGINEHEUR",
        OPERATION_GRAPH=("BACKEND_DESCRIPTOR", operations),
        MODE=("HEUR_MODE", NAMES["HEUR_MODE_A"]),
        DEVICEPROP=("BACKEND_DESCRIPTOR", properties),
    ).finalize()
    for config in heuristics.fill("RESULTS", "ENGINECFG", "ENGINECFG", 16):
        try:
            yield Plan(config, properties)
        except Refused:
            continue


def title(conv):
    side = f"{conv.x.height}x{conv.x.width}x{conv.x.channels}"
    return f"{side}, {conv.kernel}x{conv.kernel}/{conv.stride} to {conv.y.channels}" + (" +" if conv.adds else "")


def cell(conv, direction, properties, tally, knobs):
    if conv.first and direction == "BWD_DATA":
        return "–"
    found = list(plans(conv, direction, properties))
    chosen = next((plan for plan in found if plan.fits), None)
    tally["asked"] += 1
    if chosen is None:
        return "**none**"
    tally["planned"] += 1
    tally["on tensor cores"] += chosen.tensor_cores
    tally["the heuristics' first choice"] += chosen is found[0]
    tally["workspace"] = max(tally["workspace"], chosen.workspace)
    if knobs:
        print(title(conv), direction, chosen.engine, chosen.knobs, sorted(chosen.notes), file=sys.stderr)
    text = str(chosen.engine) + ("" if chosen.tensor_cores else "*") + ("" if chosen is found[0] else "!")
    return text + (f", {size(chosen.workspace)}" if chosen.workspace >= 1000 else "")


def size(number):
    return f"{number / 1e6:.0f} MB" if number >= 1e7 else f"{number / 1e6:.2f} MB"


def table(convs, devices, knobs):
    """Prints one row per convolution with one column per device and direction, and a summary."""
    tallies = {name: Counter() for name in devices}
    heads = [f"{name} {direction}" for name in devices for direction in DIRECTIONS]
    print("| convolution | times |", " | ".join(heads), "|")
    print("|---|---|" + "---|" * len(heads))
    for conv, times in convs.items():
        cells = [cell(conv, direction, properties, tallies[name], knobs)
                 for name, properties in devices.items() for direction in DIRECTIONS.values()]
        print(f"| {title(conv)} | {times} |", " | ".join(cells), "|")
    print()
    for name, tally in tallies.items():
        facts = ", ".join(f"{tally[fact]} {fact}" for fact in ["on tensor cores", "the heuristics' first choice"])
        print(f"- {name}: {tally['planned']} of {tally['asked']} planned, {facts}; "
              f"the largest workspace is {size(tally['workspace'])}")


def statistics(convs, devices):
    """Prints whether each forward convolution is planned with the statistics of its output."""
    kinds = {"bf16": "BFLOAT16", "f16": "HALF"}
    heads = [f"{name} {kind}" for name in devices for kind in kinds]
    print("| convolution | times |", " | ".join(heads), "|")
    print("|---|---|" + "---|" * len(heads))
    planned = Counter()
    for conv, times in convs.items():
        cells = []
        for name, properties in devices.items():
            for kind, data in kinds.items():
                found = list(plans(conv, "FORWARD", properties, data, statistics=True))
                planned[f"{name} {kind}"] += bool(found)
                cells.append(f"{found[0].engine}, {size(found[0].workspace)}" if found else "–")
        print(f"| {title(conv).removesuffix(' +')} | {times} |", " | ".join(cells), "|")
    print()
    for head in heads:
        print(f"- {head}: {planned[head]} of {len(convs)} planned")


def fused(convs, devices):
    """Prints whether each convolution is planned with the norm before it, in each direction."""
    heads = [f"{name} {direction}" for name in devices for direction in DIRECTIONS]
    print("| convolution | times |", " | ".join(heads), "|")
    print("|---|---|" + "---|" * len(heads))
    tallies = {name: Counter() for name in devices}
    for conv, times in convs.items():
        fusion, cells = Fusion(conv, BATCH), []
        for name, properties in devices.items():
            suitable = []
            for graph_of in [fusion.forward, fusion.backward_data, fusion.backward_filter]:
                found = next((plan for plan in planned(graph_of(), properties) if plan.fits), None)
                suitable.append(found is not None)
                cells.append(f"{found.engine}, {size(found.workspace)}" if found else "–")
            tallies[name]["shapes"] += all(suitable)
            tallies[name]["convolutions"] += all(suitable) * times
        print(f"| {title(conv)} | {times} |", " | ".join(cells), "|")
    print()
    for name, tally in tallies.items():
        print(f"- {name}: all three of {tally['shapes']} of {len(convs)} shapes, which are {tally['convolutions']} of "
              f"{convs.total()} convolutions")


def refusal(action):
    try:
        result = action()
    except Refused as refused:
        return f"`{refused}`"
    return f"{result} plans"


def main():
    described = {name: json.loads((HERE / f"{name.lower()}.json").read_text()) for name in ["H100", "A100"]}
    devices = {name: device(properties) for name, properties in described.items()}
    handle = ctypes.c_void_p()
    no_device = refusal(lambda: cudnn.check(cudnn.LIBRARY.cudnnCreate(ctypes.byref(handle))))
    volta = {**described["H100"], "deviceName": "a V100", "deviceVer": 700}
    stem, second = [op for op in resnet50.operations(224) if isinstance(op, resnet50.Conv)][:2]
    control = refusal(lambda: len(list(plans(second, "FORWARD", device(volta)))))
    print(HEAD.format(version=cudnn.version(), date=date.today(), no_device=no_device, control=control, batch=BATCH))
    for pixels in [224, 160]:
        convs = Counter(op for op in resnet50.operations(pixels) if isinstance(op, resnet50.Conv))
        print(f"## {pixels} pixels\n")
        table(convs, devices, "--knobs" in sys.argv)
        print()
    print(STEM.format(eight=BATCH * 230 * 230 * 8 * 2 / 1e6))
    wider = {resnet50.Conv(resnet50.Shape(230, 230, channels), stem.y, 7, 2, 0, first=True): 1 for channels in [3, 4]}
    table(wider, devices, "--knobs" in sys.argv)
    print()
    print(STATISTICS)
    convs = Counter(op for op in resnet50.operations(224) if isinstance(op, resnet50.Conv))
    statistics(Counter(plain(conv) for conv in convs.elements()), devices)
    print()
    print(FUSED)
    for pixels in [224, 160]:
        print(f"{pixels} pixels:\n")
        fused(Counter(fusible(resnet50.operations(pixels))), devices)
        print()


def plain(conv):
    """Forward, a convolution is the same whether its backward adds or not."""
    return replace(conv, adds=False)


HEAD = """\
# cuDNN's plans for ResNet-50

Made by `tests/kernels/plan/run.sh` with cuDNN {version} on {date}, without a GPU: cuDNN plans for a GPU that is
described to it (`CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR`; `tests/kernels/plan/h100.json` and `a100.json`, from public
specifications). **Nothing here ran on a GPU.** A plan is listed when cuDNN has checked that one of its engines supports
it, with the workspace that it needs. It says nothing about time.

Every convolution as the trainer describes it: NHWC, bf16, sums in f32, batch {batch}; the images are stored
with their padding. `+`: backward data adds to the existing gradient (beta 1). Each plan is the best proposal of mode A
of the heuristics that is deterministic, rounds neither inputs nor sums, and takes at most 512 MiB. That is the rule of
`client/trainer/src/backend/cuda/conv/`, which measures the four best on the GPU.

A cell is the engine's number, which is counted separately for each direction, and its workspace, if that is 1 kB or
more. `*`: without cuDNN's note that it uses tensor cores. `!`: the heuristics' first choice was not deterministic, too
large, or not supported.

- Not planned: the legacy API, which the trainer calls where the graph API refuses. It wants a handle, and `cudnnCreate`
  without a device says {no_device}. It may choose otherwise.
- Not planned: the classifier, which is cuBLAS's.
- Control: a GPU described as of compute capability 7.0, which has no bf16, gets {control} for the second convolution.
"""

STEM = """\
## The stem with fewer channels

Images have 3 channels: 6 bytes a pixel in bf16, which no 16-byte access fits. The trainer adds 5 channels of zeros.
Without them, or with only one, the backward filter's workspace would be about the size of the images with 8 channels
({eight:.0f} MB): presumably they would be copied there first (224 pixels):
"""

STATISTICS = """\
## Convolutions with the statistics of their output

Forward, with an operation `GEN_STATS` in the same graph: the sums of the output and of its squares by channel, in f32,
from which a batch norm computes mean and variance without another pass. A cell is the engine and the workspace of the
heuristics' first proposal (mode A); `–`: they propose nothing. The heuristics of modes B, INSTANT and FALLBACK propose
nothing for bf16 either. Of the five engines of this graph, those that are compiled in advance want f16, and another one
says that something is missing at run time, presumably the driver. So the trainer, whose activations are bf16, sums in a
kernel of its own.
"""

FUSED = """\
## Convolutions with the norm before them

In f16, where a norm with ReLU and without residual feeds one convolution: cuDNN's patterns `ConvBNfprop` (forward, with the
statistics of the output), `DgradDreluBNBwdWeight` (backward data, with the mask of the ReLU and the gradients of the norm's
weights) and `ConvBNwgrad` (backward filter). See `tests/kernels/plan/fusions.py`. A cell is the engine and the workspace of
the best suitable proposal (mode A); `–`: there is none. The engines have no numerical notes: nothing says that the order of
their sums is the same in every run. On the A100 backward data wants a workspace as large as its output: what is fused there
may be two kernels.
"""

if __name__ == "__main__":
    main()
