"""Generates images, serves them, and trains: end_to_end.py BIN_DIR DEVICE WORK_DIR SETTINGS JSON.

SETTINGS is JSON: `classes`, `per_class`, `steps`, and `train`, further flags of the trainer. Writes images/s of the steps after the
first few, and the share of their time in which the trainer waited for data.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

# Steps that do not count: buffers fill, and libraries load their kernels.
FIRST = 3


def main(bin_dir, device, work, settings, out):
    settings, work = json.loads(settings), Path(work)
    forebay, trainer = os.path.join(bin_dir, "forebay"), os.path.join(bin_dir, "forebay-trainer")
    data = work / "data"
    subprocess.run([forebay, "sample-data", data, "--classes", str(settings["classes"]), "--per-class",
                    str(settings["per_class"]), "--val-per-class", "1"], check=True)
    subprocess.run([forebay, "index", data / "train"], check=True)
    server = subprocess.Popen([forebay, "serve", "--listen", "127.0.0.1:0", "--dataset", f"train={data / 'train'}"],
                              stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline().strip()
        address = line.removeprefix("listening on ")
        if address == line:
            sys.exit(f"the server did not start: {line}")
        subprocess.run([trainer, "train", "--endpoint", f"http://{address}", "--dataset", "train", "--device", device,
                        "--output", work / "run", "--stop-after", str(settings["steps"]), *settings["train"]], check=True)
    finally:
        server.terminate()
        server.wait(20)
    with open(work / "run/log.jsonl", encoding="utf-8") as log:
        steps = [step for step in map(json.loads, log) if "loss" in step][FIRST:]
    seconds, waited = sum(step["step_seconds"] for step in steps), sum(step["data_wait_seconds"] for step in steps)
    result = {"steps": len(steps), "images_per_s": sum(step["samples"] for step in steps) / seconds,
              "waits": waited / seconds, "cores": os.cpu_count()}
    Path(out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{result['images_per_s']:.0f} images/s on {os.cpu_count()} cores; the trainer waited {result['waits']:.0%} of the time")


main(*sys.argv[1:])
