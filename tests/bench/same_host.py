"""Compares TCP, a Unix socket and shared memory between a server and a load test on one host, in paired runs.

    same_host.py --forebay BIN --loadtest BIN --dataset PATH [--rounds 5] [--steps 6] [--cached] [-- FLAGS OF THE LOAD TEST]

Prints medians of the CPU time of both processes per image, beyond that of `forebay bench`. With --cached, every
microbatch was made before and comes from the cache, so that nothing is subtracted: what is left is the transport.
What a load test takes to start is not counted: each figure is the difference between a long and a short run.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

from process import cpu, settle

TRANSPORTS = {
    "TCP": ("127.0.0.1:{port}", "off"),
    "Unix socket, copied": ("unix:{socket}", "off"),
    "shared memory, verified": ("unix:{socket}", "verify"),
    "shared memory, trusted": ("unix:{socket}", "trust"),
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("forebay", "loadtest", "dataset"):
        arguments.add_argument(f"--{name}", required=True)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=6)
    arguments.add_argument("--cached", action="store_true")
    arguments.add_argument("flags", nargs="*")
    args = arguments.parse_args()
    found = {name: [] for name in TRANSPORTS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            made = 0 if args.cached else bench(args)
            for name, (endpoint, mode) in TRANSPORTS.items():
                found[name].append(run(args, folder, endpoint, mode) - made)
    print("CPU ms per image, server and load test together" + ("" if args.cached else ", beyond forebay bench"))
    for name, values in found.items():
        print(f"{statistics.median(values):.3f}  {min(values):.3f} to {max(values):.3f}  {name}")


def bench(args):
    """CPU time of making an image."""
    command = [args.forebay, "bench", "--dataset", args.dataset, "--images", str(2048 * args.steps), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["cpu_ms_per_image"]


def run(args, folder, endpoint, mode):
    """CPU time of both processes per image."""
    socket = pathlib.Path(folder) / "forebay.sock"
    command = [args.forebay, "serve", "--dataset", f"train={args.dataset}", "--listen", "127.0.0.1:0"]
    # One socket alone: over TCP nothing is offered in shared memory.
    command += ["--listen", f"unix:{socket}"] if "socket" in endpoint else []
    cache = args.steps * 8 * 256 * 3 * 224 * 224 if args.cached else 0
    buffers = cache + (1 << 30)
    command += ["--memory", str(buffers + (2 << 30)), "--buffer-bytes", str(buffers), "--cache-bytes", str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            port = server.stdout.readline().rsplit(":", 1)[1].strip()
            load = [args.loadtest, "--endpoint", endpoint.format(port=port, socket=socket), "--dataset", "train"]
            load += ["--shared-memory", mode, "--trainers", "2", "--json", *args.flags]
            if args.cached:
                measure([*load, "--steps", str(args.steps)], server.pid)
            short, images_of_short = measure([*load, "--steps", "1"], server.pid)
            long, images = measure([*load, "--steps", str(args.steps)], server.pid)
        finally:
            server.terminate()
    return 1000 * (long - short) / (images - images_of_short)


def measure(load, server):
    """CPU time of a load test and of its server, and the number of images."""
    before, of_server = os.times(), cpu([server])
    report = json.loads(subprocess.run(load, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    settle([server])
    after, of_server = os.times(), cpu([server]) - of_server
    assert not report["violations"], report["violations"]
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return of_server + used, report["images"]


main()
