"""Compares the losses of a run with those of the CPU on the same microbatches: losses.py CPU_LOG GPU_LOG JSON.

The GPU computes in bf16 and rounds differently, and small differences grow from step to step, so that the limits do too.
"""

import json
import math
import sys

# Relative differences of the loss that are accepted, at the first step and at the last.
FIRST, LAST = 0.002, 0.03


def steps(path):
    with open(path, encoding="utf-8") as file:
        return [line for line in map(json.loads, file) if "loss" in line]


def main(cpu_log, gpu_log, out):
    cpu, gpu = steps(cpu_log), steps(gpu_log)
    rows, worst = [], 0.0
    for number, (wanted, found) in enumerate(zip(cpu, gpu)):
        limit = FIRST + (LAST - FIRST) * number / max(len(cpu) - 1, 1)
        apart = abs(found["loss"] - wanted["loss"]) / abs(wanted["loss"])
        worst = max(worst, apart / limit) if math.isfinite(apart) else math.inf
        rows.append({"step": number + 1, "cpu": wanted["loss"], "gpu": found["loss"], "apart": apart, "limit": limit,
                     "cpu_grad_norm": wanted["grad_norm"], "gpu_grad_norm": found["grad_norm"]})
    same = len(cpu) == len(gpu) and worst <= 1
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"agree": same, "steps": len(gpu), "expected_steps": len(cpu), "worst_share_of_limit": worst, "rows": rows},
                  file, indent=1)
    print(f"{len(gpu)} of {len(cpu)} steps; the largest difference is {worst:.2f} of its limit")
    if not same:
        sys.exit("the losses differ from the CPU's by more than rounding")


main(*sys.argv[1:])
