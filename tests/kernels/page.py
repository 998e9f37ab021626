"""docs/gpu-floors.md: its tables and text."""

import textwrap
from collections import defaultdict
from dataclasses import replace

import model
import predictions
import resnet50
from model import A100, DEVICES, H100, H200, Share, expected, floor

BATCH = 256
PIXELS = 224


def row(*cells):
    return "| " + " | ".join(cells) + " |"


def head(*cells):
    return [row(*cells), "|" + "---|" * len(cells)]


def both(devices):
    """Two columns for each device."""
    return [f"{device.reported_as} {column}" for device in devices for column in ("floor", "expected")]


def mega(number):
    return f"{number / BATCH / 1e6:.2f}"


def micro(seconds):
    return f"{seconds / BATCH * 1e6:.2f}"


def rate(images, seconds):
    """Images per second in three digits."""
    images /= seconds
    return f"{round(images, 2 - len(str(int(images))) + 1):,.0f}"


def by_kernel(works):
    """Yields one row per kernel, with the sum of its launches. What is expected includes the gap after each."""
    found = defaultdict(list)
    for work in sorted(works, key=lambda work: work.kind != "convolutions"):
        found[work.kernel].append(work)
    yield from head("kernel", "launches", "MB read", "MB written", "GFLOP", *both(DEVICES))
    for kernel, launched in found.items():
        yield table_row(kernel, launched)
    yield table_row("**all**", works)


def table_row(name, works):
    flops = sum(work.flops for work in works) / BATCH / 1e9
    launches = sum(work.launches for work in works)
    times = []
    for device in DEVICES:
        expects = sum(work.expected(device) for work in works) + launches * model.gap()
        times += [micro(floor(works, device)), micro(expects)]
    return row(name, str(launches), mega(sum(work.reads for work in works)), mega(sum(work.writes for work in works)),
               f"{flops:.2f}" if flops else "", *times)


def rates(step):
    yield from head("pixels", "batch", *both(DEVICES))
    for pixels in predictions.SIZES:
        for batch in predictions.BATCHES:
            works = step(pixels, batch)
            times = [time(works, device) for device in DEVICES for time in (floor, expected)]
            yield row(str(pixels), str(batch), *[rate(batch, time) for time in times])


def comparison(step, alternatives, reported):
    """Beside what others reported."""
    yield from head("224 pixels, batch 256", *[device.reported_as for device in DEVICES])
    for name, works in [
        ("forebay, expected", step(PIXELS, BATCH)),
        ("expected, were norm, sum and ReLU kernels of their own", step(PIXELS, BATCH, alternatives["apart"])),
    ]:
        yield row(name, *[rate(BATCH, expected(works, device)) for device in DEVICES])
    for name, (images, on, _) in reported.items():
        yield row(f"reported: {name}", *[f"{images:,}" if device is on else "" for device in DEVICES])


def changes(step, alternatives):
    """What changes are worth, each by itself."""
    cases = [(device, batch) for device in (H100, H200) for batch in (32, 256)]
    yield from head("change", *[f"{device.reported_as}, batch {batch}" for device, batch in cases])
    written = [expected(step(PIXELS, batch), device) for device, batch in cases]
    yield row("none: the time of a step", *[f"{seconds * 1e3:.1f} ms" for seconds in written])
    for change in predictions.CHANGES:
        times = [predictions.changed(step, alternatives, change, PIXELS, batch, device) for device, batch in cases]
        yield row(change.name, *[f"{(before / after - 1) * 100:+.0f} %" for before, after in zip(written, times)])


def mixing():
    sample = 3 * PIXELS * PIXELS
    devices = [A100, H100, H200]
    names = [device.reported_as for device in devices]
    yield from head("out", "reads, MB", "writes, MB", *[f"{name} kernel" for name in names],
                    *[f"{name} copies" for name in names[:2]], *[f"{name} images/s" for name in names[:2]])
    for name, width in [("u8", 1), ("f16, bf16", 2), ("f32", 4)]:
        read, written = BATCH * (sample + 32), BATCH * sample * width
        kernels = [f"{(read + written) / device.memory * 1e3:.3f}" for device in devices]
        copies = [f"{BATCH * sample / d.pcie * 1e3:.2f}, {written / d.pcie * 1e3:.2f}" for d in devices[:2]]
        yield row(name, f"{read / 1e6:.1f}", f"{written / 1e6:.1f}", *kernels, *copies,
                  *[rate(BATCH, written / device.pcie) for device in devices[:2]])


def efficiencies():
    yield from head("kernels", "share of the tensor cores' peak", "share of the memory's peak")
    plans = ", ".join(f"{device.reported_as} {device.plans:.0%}".replace("%", " %") for device in DEVICES)
    yield row("convolutions, by timed plans of cuDNN", plans, f"{percent(model.CONVOLUTIONS)} %")
    yield row("norms", "", f"{percent(model.NORMS)} %")
    yield row("all others", "as convolutions", f"{percent(model.OTHERS)} %")


def percent(share):
    return round(share * 100)


def spread(works, device):
    """The ms of a step if convolutions reach 5 points more or less of the tensor cores' peak."""
    times = [expected(works, device, Share(more=more)) * 1e3 for more in (0.05, -0.05)]
    return "{:.0f} to {:.0f}".format(*times)


def wrapped(block):
    """A paragraph in lines of at most 120 columns; headings, tables and lists as they are."""
    if block.lstrip().startswith(("#", "|", "- ")):
        return block
    end = "\n" if block.endswith("\n") else ""
    return textwrap.fill(block, 120, break_long_words=False, break_on_hyphens=False) + end


def document(step, update, alternatives, reported):
    works, numbers = step(PIXELS, BATCH), sum(n for n, _ in resnet50.parameters(resnet50.operations(PIXELS)))
    kept = [work for work in works if work.kernel in ("norm_finish", "norm_gradients")]
    lamb = [work for work in update(numbers) if work.kernel != "add_gradients"]
    kinds = predictions.kinds(works, lambda work: (work.expected(H100) + work.launches * model.gap()) * 1e3)
    text = TEXT.format(
        mixing="\n".join(mixing()),
        kernels="\n".join(by_kernel(works)),
        efficiencies="\n".join(efficiencies()),
        rates="\n".join(rates(step)),
        comparison="\n".join(comparison(step, alternatives, reported)),
        changes="\n".join(changes(step, alternatives)),
        reported="\n".join(f"- {name}: {source}" for name, (_, _, source) in reported.items()),
        batch=BATCH,
        launches=sum(work.launches for work in works),
        gflop=f"{sum(work.flops for work in works) / BATCH / 1e9:.1f}",
        traffic=f"{sum(work.bytes for work in works) / BATCH / 1e6:.0f}",
        sums=f"{2 * sum(work.bytes for work in kept) / BATCH / 1e6:.1f}",
        lamb=f"{sum(work.bytes for work in lamb) / 1e9:.2f}",
        parameter=sum(work.bytes for work in lamb) // numbers,
        feed=f"{3 * PIXELS * PIXELS * BATCH / expected(works, H200) / 1e9:.1f}",
        peaks="\n".join(f"- {d.name}: {d.flops / 1e12:.0f} TFLOP/s, {d.memory / 1e12:.3f} TB/s, PCIe {d.pcie / 1e9:.0f} GB/s"
                        for d in DEVICES),
        spread=spread(works, H100),
        **{kind: f"{ms:.0f}" for kind, ms in kinds.items()},
        gap=round(model.GAP * 1e6),
        graph=round(model.GAP_IN_GRAPH * 1e6),
        host=round(model.HOST * 1e6),
        host_ms=f"{sum(work.launches for work in works) * model.HOST * 1e3:.0f}",
        legacy=percent(H100.legacy),
    )
    return "\n\n".join(wrapped(block) for block in text.split("\n\n"))


TEXT = """\
# Floors on paper

What the kernels must move and multiply, as they are written; the time that this takes at best, and the time to expect. Printed
by `tests/kernels/floors.py`; **none of it was measured on a GPU**. Peaks, and what is taken for PCIe:

{peaks}

## Mixing

A batch of {batch} at 224 pixels, u8 NHWC in, by `src/mix/kernels/mix.cu`; times of the kernel, and of the copies in and out, in ms:

{mixing}

The kernels do just that: a thread takes 16 bytes of a sample and of its partner and writes both, so each pixel is read once and
written once, by 16-byte accesses (`tests/kernels/check.py` counts them in the machine code), with 32 bytes of plan a sample.
So their floor is the memory's. Copies in and out overlap each other and the kernels, and PCIe bounds a server: the last columns.
An H200 has the copies of an H100.

## Training

ResNet-50, bf16, an update after each microbatch. A kernel's *floor* is the longer of its bytes at the memory's peak and its
multiply-adds at that of the tensor cores. It is *expected* to reach these shares of the two:

{efficiencies}

and {graph} µs passes between the end of a kernel and the work of the next, in a CUDA graph. The shares are assumptions. An H100's
cores are three times as fast as an A100's with 1.6 times the memory, so that convolutions of few channels wait for memory.

Of a microbatch of {batch} at 224 pixels, all for one image, times in µs:

{kernels}

{gflop} GFLOP and {traffic} MB an image, in {launches} launches a microbatch. Each tensor is counted as often as a kernel goes over it, as if
no cache kept it from one kernel to the next, which is pessimistic for small batches. Of the norms' bytes, {sums} MB are sums of
chunks that the next kernel reads, which the L2 cache can hold. LAMB moves {lamb} GB an update, {parameter} bytes a parameter. A moving average
of the model is not counted, nor are other ranks. Small batches leave multiprocessors idle in the last stages, which is not
counted either.

Images/s:

{rates}

A step of {batch} at 224 pixels takes an H100 {spread} ms if convolutions reach 5 points more or less of the tensor cores' peak:
convolutions {convolutions}, norms {norms}, LAMB and the rest {others}. The third digit of all these means nothing.

{comparison}

{reported}

PyTorch runs norm, sum and ReLU as kernels of their own, MXNet fuses them. No measurement of PyTorch on an H100 was found:
`tests/gpu/run.sh` takes one on the same machine ([gpu.md](gpu.md#testing-on-a-gpu)).

## What changes are worth

Images/s on paper at 224 pixels, compared with the program as it is:

{changes}

The legacy API is taken to reach {legacy} % of the tensor cores' peak on an H100: it is not known whether it uses the kernels of sm_90.
Without a CUDA graph {gap} µs pass between kernels, and the host takes {host} µs to launch one, {host_ms} ms a step, which is hidden while
the GPU is busy for longer. cuDNN's operations that fuse norms into convolutions exist in f16 only, and so do, without a GPU to ask,
plans that take statistics ([cudnn-plans.md](cudnn-plans.md)); a norm at the end of a block stays a kernel.

A GPU at the expected rate takes little of its PCIe: an H200 {feed} GB/s of pixels.
"""
