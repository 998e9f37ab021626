"""Compiles every .cu file of forebay by NVRTC for each architecture, and checks each kernel:

- no spills and no stack: nothing lies in local memory
- registers within budget.toml, which must name every kernel and no other
- as many 16-byte loads and stores as budget.toml asks for, in the disassembly

A file prelude.cuh comes before each .cu file of its folder. Files that know FOREBAY_F16 and FOREBAY_F32 are compiled
with each of them too, under the name "FILE with FOREBAY_F16", for example.

Called by run.sh. `--planted` checks instead that kernels with such faults are caught.
"""

import ctypes
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]
# The options of src/gpu/device.rs.
PRECISIONS = ["FOREBAY_F16", "FOREBAY_F32"]
OPTIONS = ["--fmad=false", "--std=c++17", "--ptxas-options=-v"]

NVIDIA = next(Path(sys.prefix).glob("lib/python3*/site-packages/nvidia"))
NVRTC = ctypes.CDLL(str(next(NVIDIA.glob("cuda_nvrtc/lib/libnvrtc.so.*"))))
NVDISASM = next(NVIDIA.glob("*/bin/nvdisasm"))


def text(program, size_of, get):
    """Reads a byte result of NVRTC."""
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    get(program, buffer)
    return buffer.raw


def compile(name, source, architecture):
    """Returns the compiler's log and the machine code, which is None after an error."""
    if " with " in name:
        source = f"#define {name.rpartition(' ')[2]}\n{source}"
    program = ctypes.c_void_p()
    NVRTC.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
    options = [option.encode() for option in [*OPTIONS, f"--gpu-architecture={architecture}"]]
    refused = NVRTC.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*options)
    )
    log = text(program, NVRTC.nvrtcGetProgramLogSize, NVRTC.nvrtcGetProgramLog)
    log = log.rstrip(b"\0").decode()
    code = None if refused else text(program, NVRTC.nvrtcGetCUBINSize, NVRTC.nvrtcGetCUBIN)
    NVRTC.nvrtcDestroyProgram(ctypes.byref(program))
    return log, code


def resources(log):
    """Returns registers, stack bytes and spilled bytes of each kernel."""
    found, kernel = {}, None
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = found.setdefault(match[1], {})
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) .* stores, (\d+) ", line):
            kernel["stack"], kernel["spills"] = int(match[1]), int(match[2]) + int(match[3])
        elif match := re.search(r"Used (\d+) registers", line):
            kernel["registers"] = int(match[1])
    return found


def wide_accesses(code):
    """Counts 16-byte loads and stores of global memory in each kernel's code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        listing = subprocess.run(
            [NVDISASM, "-c", file.name], check=True, capture_output=True, text=True
        ).stdout
    found, kernel = {}, None
    for line in listing.splitlines():
        if match := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            kernel = found.setdefault(match[1], {"loads": 0, "stores": 0})
        elif match := re.search(r"\b(LDG|STG)\.\S*\b128\b", line):
            kernel["loads" if match[1] == "LDG" else "stores"] += 1
    return found


def faults(name, source, budget, architecture):
    """Returns the faults of a file's kernels, and a line about each kernel."""
    log, code = compile(name, source, architecture)
    if code is None:
        return [f"{name} for {architecture} does not compile:\n{log}"], []
    wrong, lines, wide = [], [], wide_accesses(code)
    for kernel, used in resources(log).items():
        used |= wide[kernel]
        lines.append((kernel, architecture, used))
        allowed = budget.get(kernel)
        where = f"{name}: {kernel} for {architecture}"
        if allowed is None:
            wrong.append(f"{where} is not in budget.toml; it uses {used}")
            continue
        for what in ["stack", "spills"]:
            if used[what] > 0:
                wrong.append(f"{where} has {used[what]} bytes of {what}")
        if used["registers"] > allowed["registers"]:
            wrong.append(f"{where} uses {used['registers']} registers of {allowed['registers']}")
        for what in ["loads", "stores"]:
            if used[what] < allowed[what]:
                wrong.append(f"{where} has {used[what]} 16-byte {what} and not {allowed[what]}")
    for kernel in budget.keys() - {kernel for kernel, _, _ in lines}:
        wrong.append(f"{name} has no {kernel}, which budget.toml names")
    return wrong, lines


def kernel_sources():
    """All .cu files of forebay by their names in budget.toml. Those in tests/ have deliberate faults."""
    sources = {}
    for path in sorted(ROOT.rglob("*.cu")):
        if {"target", "tests"} & set(path.relative_to(ROOT).parts):
            continue
        name, prelude, source = str(path.relative_to(ROOT)), path.parent / "prelude.cuh", path.read_text()
        if prelude.exists():
            source = f"{prelude.read_text()}\n#line 1 \"{path.name}\"\n{source}"
        sources[name] = source
        for precision in PRECISIONS:
            if precision in source:
                sources[f"{name} with {precision}"] = source
    return sources


def check():
    budget = tomllib.loads((HERE / "budget.toml").read_text())
    sources = kernel_sources()
    wrong = [f"budget.toml names {name}, which is not there" for name in budget.keys() - sources.keys()]
    print(f"{'kernel':24} {'for':8} registers  16-byte loads  stores")
    for name, source in sources.items():
        print(name)
        for architecture in ARCHITECTURES:
            found, lines = faults(name, source, budget.get(name, {}), architecture)
            wrong += found
            for kernel, _, used in lines:
                print(
                    f"{kernel:24} {architecture:8} {used['registers']:9}"
                    f"{used['loads']:15} {used['stores']:7}"
                )
    return wrong


PLANTED = """
extern "C" __global__ void planted(const int *from, int *to, int at) {
  int values[64];
  for (int k = 0; k < 64; ++k) values[k] = from[k];
  for (int k = 0; k < 64; ++k) values[(k * at) & 63] += k;
  to[threadIdx.x] = values[at & 63];
}
"""


def planted():
    """Plants each fault, and returns those that were not detected."""
    roomy = {"registers": 255, "loads": 0, "stores": 0}
    cases = [
        ("bytes of stack", PLANTED, {"planted": roomy}),
        ("registers of 4", PLANTED, {"planted": roomy | {"registers": 4}}),
        ("16-byte loads and not 99", PLANTED, {"planted": roomy | {"loads": 99}}),
        ("16-byte stores and not 1", PLANTED, {"planted": roomy | {"stores": 1}}),
        ("is not in budget.toml", PLANTED, {}),
        ("has no other", PLANTED, {"planted": roomy, "other": roomy}),
        ("does not compile", PLANTED + "nonsense", {"planted": roomy}),
    ]
    missed = []
    for says, source, budget in cases:
        found, _ = faults("planted.cu", source, budget, ARCHITECTURES[0])
        if not any(says in fault for fault in found):
            missed.append(f"nobody noticed: {says}; found {found}")
    return missed


if __name__ == "__main__":
    wrong = planted() if sys.argv[1:] == ["--planted"] else check()
    for line in wrong:
        print(line, file=sys.stderr)
    print("kernels: no faults" if not wrong else f"kernels: {len(wrong)} faults")
    sys.exit(bool(wrong))
