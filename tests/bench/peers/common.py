"""Code of all peers. compare.py starts one as `python PEER.py FOLDER WORKLOAD`.

A peer warms up with one pass over the images, prints its versions, and then runs a pass for each line on its
standard input. A pass is an epoch: every file of the folder once, as batches of u8.
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
    workload: str  # crop, randaugment or mix; each one adds to the previous one
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
    """torch's DataLoader with one worker process of one thread."""
    from torch.utils.data import DataLoader

    return DataLoader(
        dataset, BATCH, shuffle=True, num_workers=1, persistent_workers=True, **options
    )


def count(batches):
    """Counts the images of (pixels, ...) batches."""
    return sum(len(pixels) for pixels, *_ in batches)


def serve(build, about):
    """`build` takes the job and returns a function that runs a pass and returns the number of its images."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of libraries must not mix with the answers
    job = Job(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
    run = build(job)
    images = len(job.files())

    def turn():
        start = time.perf_counter()
        made = run()
        if made != images:
            raise SystemExit(f"{made} of {images} images")
        return {"images": made, "seconds": time.perf_counter() - start}

    def say(message):
        print(json.dumps(message), file=out, flush=True)

    turn()
    say({"versions": about})
    for _ in sys.stdin:
        say(turn())
