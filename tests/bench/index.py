"""Compares indexing Parquet files and TFRecords with indexing tars of the same small images.

    FOREBAY_VENV=DIR tests/formats/run.sh              # once: the environment
    DIR/bin/python tests/bench/index.py --forebay target/release/forebay [--records N] [--rounds R] [--threads T]
                                        [--photos N] [--images DIR] [--keep DIR]

It writes N records (as many as ImageNet has, unless told) into the same number of shards of each layout: tars as
WebDataset has them, Parquet files as `datasets` writes them with the row groups of older versions (100 rows) and of
today, and TFRecords of TF-slim. The images are JPEGs of 64 x 64 pixels, a few hundred that repeat, each with a few
bytes behind its end that make it another file. Then `forebay index` indexes each layout, in an order that rotates
from round to round; the table has medians. At full size all layouts take 10 GB.

It also writes photos (those of --images DIR, or noise) of about 110 KB into tars, Parquet files and MDS shards, and
prints what reading one of them takes in a shuffled epoch by `forebay bench`: the CPU time of the stage `read`, which
also plans the sample and compares the record's checksum.
"""

import argparse
import io
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tfrecord
from PIL import Image
from streaming import MDSWriter

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
IMAGENET = 1_281_167
CLASSES = 1000
SHARD = 1252
DISTINCT = 400
# What Parquet files and TFRecords may take, in times of the tars.
PROMISED = 1.5
# Milliseconds for a record of a Parquet file with row groups of 100 photos in one dictionary page.
PROMISED_READ = 0.05


def jpeg(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def small_images():
    """JPEGs of about 1.5 KB."""
    draw = np.random.default_rng(0)
    for _ in range(DISTINCT):
        waves = draw.uniform(0.05, 0.4, (3, 2))
        at = np.arange(64)
        plain = np.stack([128 + 90 * np.sin(at[:, None] * y + at[None] * x) for y, x in waves], axis=-1)
        yield jpeg(np.clip(plain + draw.normal(0, 9, plain.shape), 0, 255).astype(np.uint8), 75)


def records(count):
    """Label and bytes of each record."""
    images = list(small_images())
    for number in range(count):
        yield number * CLASSES // count, images[number % DISTINCT] + number.to_bytes(8, "little")


def shards(count):
    """The records of each shard, with the number of the first."""
    of_shard, first = [], 0
    for record in records(count):
        of_shard.append(record)
        if len(of_shard) == SHARD:
            yield first, of_shard
            first, of_shard = first + SHARD, []
    if of_shard:
        yield first, of_shard


def member(name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def write_tar(path, first, part):
    with open(path, "wb") as file:
        for number, (label, image) in enumerate(part, first):
            file.write(member(f"{number:07}.jpg", image) + member(f"{number:07}.cls", str(label).encode()))
        file.write(bytes(1024))


def schema():
    """The columns of datasets, with the names of the classes."""
    names = [f"n{number:08}" for number in range(CLASSES)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    return features.arrow_schema


def write_parquet(path, first, part, rows, compression="snappy"):
    images = [{"bytes": image, "path": f"{number}.JPEG"} for number, (_, image) in enumerate(part, first)]
    table = pa.table({"image": images, "label": [label for label, _ in part]}, schema=schema())
    pq.write_table(table, path, row_group_size=rows, compression=compression)


def write_tfrecord(path, first, part):
    writer = tfrecord.TFRecordWriter(str(path))
    for number, (label, image) in enumerate(part, first):
        writer.write({"image/encoded": (image, "byte"), "image/class/label": (label + 1, "int"),
                      "image/class/synset": (f"n{label:08}".encode(), "byte"),
                      "image/filename": (f"{number}.JPEG".encode(), "byte")})
    writer.close()


LAYOUTS = {
    "tars": ("train-{:05}.tar", write_tar),
    "Parquet, row groups of 100": ("train-{:05}.parquet", lambda *args: write_parquet(*args, 100)),
    "Parquet": ("train-{:05}.parquet", lambda *args: write_parquet(*args, None)),
    "TFRecord": ("train-{:05}-of-99999", write_tfrecord),
}


def write_all(work, count):
    """The folder of each layout."""
    folders = {name: work / str(number) for number, name in enumerate(LAYOUTS)}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for shard, (first, part) in enumerate(shards(count)):
        for name, (pattern, write) in LAYOUTS.items():
            path = folders[name] / pattern.format(shard)
            if not path.exists():
                write(path, first, part)
    return folders


# A process of its own starts the command, because what a process had before `exec` counts for the peak of its memory.
LAUNCH = """
import json, os, resource, sys, time
start = time.monotonic()
_, status, used = os.wait4(os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ), 0)
figures = [time.monotonic() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000]
with open(sys.argv[1], "w") as file:
    json.dump(figures, file)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def index(args, folder, indexes):
    """Seconds, CPU seconds, peak MB, and the summary."""
    indexes.mkdir(exist_ok=True)
    figures = indexes / "figures.json"
    command = [args.forebay, "index", "--json", "--index-dir", indexes, folder]
    command += ["--threads", str(args.threads)] if args.threads else []
    launched = [sys.executable, "-I", "-S", "-c", LAUNCH, figures, *command]
    done = subprocess.run(list(map(str, launched)), stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"{command}: exit {done.returncode}")
    return *json.loads(figures.read_text()), json.loads(done.stdout)


def measure_indexing(args, work):
    folders = write_all(work, args.records)
    names, measured = list(folders), {name: [] for name in folders}
    for number in range(args.rounds):
        for name in names[number % len(names):] + names[:number % len(names)]:
            *figures, summary = index(args, folders[name], work / "indexes")
            if summary["records"] != args.records or summary["bad"]:
                raise SystemExit(f"{name}: {summary['records']} records, {len(summary['bad'])} bad")
            measured[name].append(figures)
    print(f"{args.records} records, medians of {args.rounds} rounds\n")
    print("| layout | seconds | CPU seconds | times the tars' | their CPU | peak RSS, MB |\n|---|---|---|---|---|---|")
    medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in measured.items()}
    wall_of_tars, cpu_of_tars, _ = medians["tars"]
    for name, (wall, cpu, rss) in medians.items():
        ratios = f"{wall / wall_of_tars:.2f} | {cpu / cpu_of_tars:.2f}"
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {ratios} | {rss:.0f} |")
    return [f"{name} takes more than {PROMISED} times the tars' time" for name, (wall, *_) in medians.items()
            if wall > PROMISED * wall_of_tars]


def photos(folder, count):
    """Photos of a folder, repeated with other bytes behind their end, or noise."""
    found = [path.read_bytes() for path in sorted(pathlib.Path(folder).glob("*/*"))] if folder else []
    if not found:
        draw = np.random.default_rng(0)
        found = [jpeg(draw.integers(0, 256, (333, 500, 3), np.uint8), 62) for _ in range(100)]
    return [(number % CLASSES, found[number % len(found)] + number.to_bytes(8, "little")) for number in range(count)]


def write_mds(folder, part, compression):
    columns = {"image": "bytes", "label": "int"}
    with MDSWriter(out=str(folder), columns=columns, compression=compression) as sink:
        for label, image in part:
            sink.write({"image": image, "label": label})


def measure_reads(args, work):
    part = photos(args.images, args.photos)
    size = sum(len(image) for _, image in part) / len(part)
    work.mkdir(exist_ok=True)
    write_tar(work / "x.tar", 0, part)
    paths = {"tar": work / "x.tar"}
    for rows, codec in [(100, "snappy"), (None, "snappy"), (100, "zstd"), (100, "none")]:
        path = work / f"{codec}-{rows}.parquet"
        write_parquet(path, 0, part, rows, codec)
        paths[f"Parquet, {codec}, {f'row groups of {rows}' if rows else 'row groups as today'}"] = path
    for compression in [None, "zstd:7"]:
        folder = work / f"mds-{compression}"
        if not folder.exists():
            write_mds(folder, part, compression)
        paths[f"MDS, {compression or 'not compressed'}"] = folder
    indexes, reads = work / "indexes", {name: [] for name in paths}
    for path in paths.values():
        index(args, path, indexes)
    for _ in range(args.rounds):
        for name, path in paths.items():
            command = [args.forebay, "bench", "--json", "--index-dir", indexes, "--dataset", path, "--recipe", "a2",
                       "--set", "repeats = 1", "--threads", "1", "--images", str(args.photos // 2)]
            done = subprocess.run(command, check=True, capture_output=True)
            reads[name].append(json.loads(done.stdout)["stages"]["read"])
    print(f"\n{len(part)} photos of {size / 1000:.0f} KB, shuffled, medians of {args.rounds} rounds\n")
    print("| layout | read, CPU ms for a record |\n|---|---|")
    for name, figures in reads.items():
        print(f"| {name} | {statistics.median(figures):.3f} |")
    of_groups = statistics.median(reads["Parquet, snappy, row groups of 100"])
    faults = []
    if of_groups > PROMISED_READ:
        faults.append(f"a record of a Parquet file with row groups of 100 takes {of_groups:.3f} ms")
    return faults


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--forebay", default=ROOT / "target/release/forebay")
    parser.add_argument("--records", type=int, default=IMAGENET)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--images", help="an ImageFolder of photos")
    parser.add_argument("--keep", help="folder for the data, which is not written again if it is there")
    args = parser.parse_args()
    work = pathlib.Path(args.keep or tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    faults = measure_indexing(args, work / f"small-{args.records}") if args.records else []
    faults += measure_reads(args, work / f"photos-{args.photos}") if args.photos else []
    print("\n" + ("\n".join(faults) or "as promised"))
    if not args.keep:
        shutil.rmtree(work)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
