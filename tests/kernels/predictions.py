"""The time of whole steps on paper, and what changes to them are worth."""

from dataclasses import dataclass, replace

from model import AS_WRITTEN, DEVICES, Share, expected, floor, gap

SIZES = [224, 160]
BATCHES = [32, 64, 256, 512]


@dataclass(frozen=True)
class Change:
    """A change to the kernels or to how they are launched."""

    name: str
    # The norms' kernels, a key of ALTERNATIVES in floors.py.
    norms: str = ""
    share: Share = AS_WRITTEN
    # Whether a norm's second pass starts where the first one ended, in what the L2 cache still holds.
    reverse: bool = False


CHANGES = [
    Change("without plans: convolutions by cuDNN's legacy API", share=Share(plans=False)),
    Change("without CUDA graphs", share=Share(graph=False)),
    Change("without both", share=Share(plans=False, graph=False)),
    Change("with what the second pass of a norm, in reverse order, finds in the cache", reverse=True),
    Change("statistics taken by the convolutions (GenStats)", "counted before"),
    Change("f16, norms fused into convolutions", "fused"),
    Change("f16, fused norms, and what is found in the cache", "fused", reverse=True),
]


def in_reverse(works, device):
    """Takes off what the second pass of a norm finds in the cache, of which half holds the end of the first pass. Tensors that fit
    are found there in any order."""
    half = device.l2 / 2
    for work in works:
        tensors = {"norm_apply": 1, "norm_backward": 2}.get(work.kernel, 0)
        held = half if tensors * work.writes > half else 0
        yield replace(work, reads=work.reads - held)


def changed(step, alternatives, change, pixels, batch, device):
    """The seconds of a step with a change."""
    works = step(pixels, batch, alternatives[change.norms]) if change.norms else step(pixels, batch)
    works = list(in_reverse(works, device)) if change.reverse else works
    return expected(works, device, change.share)


def kinds(works, time):
    """Sums up the works' times by kind."""
    found = {"convolutions": 0.0, "norms": 0.0, "others": 0.0}
    for work in works:
        found[work.kind] += time(work)
    return found


def mixing(device, width, pixels=224):
    """Microseconds an image for the kernel of a server, and for its copies."""
    sample = 3 * pixels * pixels
    return {
        "kernel_us": (sample * (1 + width) + 32) / device.memory * 1e6,
        "copy_in_us": sample / device.pcie * 1e6,
        "copy_out_us": sample * width / device.pcie * 1e6,
    }


def as_json(step):
    """What measurements are compared with."""
    devices = []
    for device in DEVICES:
        training = []
        for pixels in SIZES:
            for batch in BATCHES:
                works = step(pixels, batch)
                training.append({
                    "size": pixels, "batch": batch,
                    "floor_images_per_s": batch / floor(works, device),
                    "expected_images_per_s": batch / expected(works, device),
                    "floor_ms": kinds(works, lambda work: work.floor(device) * 1e3),
                    "expected_ms": kinds(works, lambda work: (work.expected(device) + work.launches * gap()) * 1e3),
                })
        devices.append({
            "name": device.name, "reported_as": device.reported_as, "training": training,
            "mixing": {name: mixing(device, width) for name, width in [("u8", 1), ("f16", 2), ("f32", 4)]},
        })
    return {"model": "resnet50", "precision": "bf16", "devices": devices}
