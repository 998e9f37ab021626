"""Compares three servers with one on the same cores, in paired runs of the load test.

    servers.py --forebay BIN --loadtest BIN --dataset NAME=PATH [--rounds 5] [-- FLAGS OF THE LOAD TEST]

All servers share one core, and the load test has another. Prints medians of CPU time per image and of images/s.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("forebay", "loadtest", "dataset"):
        arguments.add_argument(f"--{name}", required=True)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("flags", nargs="*")
    args = arguments.parse_args()
    found = {1: [], 3: []}
    with tempfile.TemporaryDirectory() as folder:
        # `exec` replaces the shell by the server, so that the load test measures the server.
        pinned = pathlib.Path(folder) / "forebay"
        pinned.write_text(f'#!/bin/sh\nexec taskset -c 0 {os.path.abspath(args.forebay)} "$@"\n')
        pinned.chmod(0o755)
        for _ in range(args.rounds):
            for servers, reports in found.items():
                reports.append(run(args, pinned, servers))
    medians = {}
    for servers, reports in found.items():
        assert not any(report["violations"] for report in reports)
        cpu = statistics.median(report["server"]["cpu_ms_per_image"] for report in reports)
        rate = statistics.median(report["images_per_s"] for report in reports)
        medians[servers] = cpu, rate
        print(f"{servers} server{'s' if servers > 1 else ' '}  {cpu:.3f} CPU ms per image  {rate:.0f} images/s")
    (cpu, rate), (cpus, rates) = medians[1], medians[3]
    print(f"three servers instead of one: {100 * (cpus / cpu - 1):+.1f} % CPU, {100 * (rates / rate - 1):+.1f} % images/s")


def run(args, forebay, servers):
    command = ["taskset", "-c", "1", args.loadtest, f"--spawn={servers}", f"--forebay={forebay}",
               f"--dataset={args.dataset}", "--serve=--threads=1", "--trainers=8", "--json", *args.flags]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


main()
