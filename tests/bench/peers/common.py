"""What the peers share. compare.py starts one as `python PEER.py FOLDER WORKLOAD`.

A peer warms up by one pass over the images, says its versions, and then makes a pass for each line
on its standard input. A pass is an epoch: every file of the folder once, as batches of u8.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import sys
import time

BATCH = 256  # a microbatch of recipe a2
SIDE = 224
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
RANDAUGMENT = "rand-m7-mstd0.5-inc1"


@dataclasses.dataclass
class Job:
    folder: pathlib.Path  # an ImageFolder
    workload: str  # crop, randaugment or mix; each adds to the one before
    options: list

    @property
    def augmented(self):
        return self.workload != "crop"

    @property
    def mixed(self):
        return self.workload == "mix"

    def files(self):
        return sorted(str(path) for path in self.folder.glob("*/*"))


def versions(*packages):
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


def loader(dataset, **options):
    """torch's DataLoader with one worker process, which has one thread."""
    from torch.utils.data import DataLoader

    return DataLoader(
        dataset, BATCH, shuffle=True, num_workers=1, persistent_workers=True, **options
    )


def count(batches):
    """Counts the images of (pixels, ...) batches."""
    return sum(len(pixels) for pixels, *_ in batches)


def serve(build, about):
    """`build` gets the job and returns the function that makes a pass and counts its images."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    job = Job(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
    run = build(job)
    images = len(job.files())

    def turn():
        start = time.perf_counter()
        made = run()
        if made != images:
            raise SystemExit(f"{made} images made of {images}")
        return {"images": made, "seconds": time.perf_counter() - start}

    def say(message):
        print(json.dumps(message), file=out, flush=True)

    turn()
    say({"versions": about})
    for _ in sys.stdin:
        say(turn())
