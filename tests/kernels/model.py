"""The time that a GPU's kernels take on paper: peaks of the devices, and the share of them that kernels reach."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """Peaks of NVIDIA's data sheets: bf16 without sparsity, memory, and the reachable rate of PCIe in one direction."""

    name: str
    # Part of the name that the driver reports.
    reported_as: str
    flops: float
    memory: float
    pcie: float
    # Bytes of the L2 cache.
    l2: float
    # The share of the tensor cores' peak that convolutions reach by cuDNN's legacy API, and by plans of its graph API that
    # were timed. An H100's cores are three times as fast as an A100's and its memory 1.6 times: smaller shares of more.
    legacy: float
    plans: float


A100 = Device("A100 SXM 80 GB", "A100", 312e12, 2.039e12, 25e9, 40e6, 0.45, 0.50)
H100 = Device("H100 SXM", "H100", 989e12, 3.35e12, 50e9, 50e6, 0.30, 0.40)
H200 = Device("H200 SXM", "H200", 989e12, 4.8e12, 50e9, 50e6, 0.30, 0.40)
DEVICES = [A100, H100, H200]

# Shares of the memory's peak. Convolutions lose theirs to tiles at the borders and the last wave of blocks. The norms' blocks are
# all resident at once; with three instead of four a multiprocessor, in 1.29 waves, they would reach about 75 %.
CONVOLUTIONS = 0.65
NORMS = 0.85
OTHERS = 0.85

# Seconds from the end of a kernel to the work of the next, by a stream and in a CUDA graph; and those in which the host launches
# one, which is hidden while the GPU is busy for longer.
GAP = 3e-6
GAP_IN_GRAPH = 1e-6
HOST = 6e-6


@dataclass(frozen=True)
class Share:
    """The shares of the peaks that kernels reach."""

    # By cuDNN's timed plans instead of its legacy API.
    plans: bool = True
    # More or less of the tensor cores' peak.
    more: float = 0.0
    # Launched as a CUDA graph.
    graph: bool = True


AS_WRITTEN = Share()


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

    @property
    def kind(self):
        """`convolutions`, `norms` or `others`."""
        kinds = {"convolutions": "convolutions", "norm": "norms", "sum": "norms", "ReLU": "norms"}
        return kinds.get(self.kernel.split()[0].split("_")[0], "others")

    def floor(self, device):
        return max(self.flops / device.flops, self.bytes / device.memory)

    def expected(self, device, share=AS_WRITTEN):
        """The kernel's own time, without launching it."""
        cores = device.flops * ((device.plans if share.plans else device.legacy) + share.more)
        memory = {"convolutions": CONVOLUTIONS, "norms": NORMS, "others": OTHERS}[self.kind]
        return max(self.flops / cores, self.bytes / (device.memory * memory))


def gap(share=AS_WRITTEN):
    """Seconds from the end of a kernel to the work of the next."""
    return GAP_IN_GRAPH if share.graph else GAP


def floor(works, device):
    return sum(work.floor(device) for work in works)


def expected(works, device, share=AS_WRITTEN):
    """The time of a step: that of the kernels with the gaps between them, or that of the host which launches them."""
    launches = sum(work.launches for work in works)
    kernels = sum(work.expected(device, share) for work in works) + launches * gap(share)
    return kernels if share.graph else max(kernels, launches * HOST)
