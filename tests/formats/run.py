"""Layouts as the libraries that people use write them: index each, and compare its content with an ImageFolder.

    run.sh [--forebay PATH] [--keep DIR]

The images are those of `forebay sample-data`. webdataset writes tars, datasets Parquet files, the tfrecord package
TFRecords with the fields of TF-slim and of TensorFlow Datasets, MosaicML Streaming MDS shards, and tarfile the tars of
ILSVRC. `content` of `forebay inspect` must be the same for all. For CIFAR, torchvision reads the batches that forebay reads, and pixels are
compared. The exit code is 1 if anything differs.
"""

import argparse
import csv
import hashlib
import io
import json
import pathlib
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile

import datasets
import numpy as np
import tfrecord
import torchvision
import webdataset
from PIL import Image
from streaming import MDSWriter

datasets.disable_progress_bars()
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def forebay(binary, *args):
    done = subprocess.run([binary, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"forebay {' '.join(map(str, args))}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


def images(folder):
    """Class number, class name, path of each image, in the order of an ImageFolder."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return [(n, c.name, image) for n, c in enumerate(classes) for image in sorted(c.iterdir())]


def write_webdataset(out, records):
    out.mkdir()
    with webdataset.ShardWriter(str(out / "x-train-%06d.tar"), maxcount=30, verbose=0) as sink:
        for number, (label, _, path) in enumerate(records):
            meta = {"label": label, "filename": path.name}
            sink.write({"__key__": f"{number:06}", "jpg": path.read_bytes(), "cls": label, "json": meta})
    return out


def write_tfrecord(out, records, slim):
    out.mkdir()
    for shard, part in enumerate((records[:50], records[50:])):
        name = "train-%05d-of-00002" if slim else "x-train.tfrecord-%05d-of-00002"
        writer = tfrecord.TFRecordWriter(str(out / (name % shard)))
        for label, wnid, path in part:
            data = path.read_bytes()
            if slim:
                fields = {"image/encoded": (data, "byte"), "image/class/label": (label + 1, "int"),
                          "image/class/synset": (wnid.encode(), "byte"), "image/height": (9, "int"),
                          "image/filename": (path.name.encode(), "byte")}
            else:
                fields = {"image": (data, "byte"), "label": (label, "int"), "file_name": (path.name.encode(), "byte")}
            writer.write(fields)
        writer.close()
    return out


def write_parquet(out, folder, records):
    names = [c.name for c in sorted(folder.iterdir())]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [{"bytes": path.read_bytes(), "path": path.name} for _, _, path in records],
            "label": [label for label, _, _ in records]}
    out.mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(out / "train-00000-of-00001.parquet"))
    return out


def write_mds(out, records):
    columns = {"image": "jpeg", "label": "int", "name": "str"}
    with MDSWriter(out=str(out), columns=columns, compression=None, size_limit=1 << 18) as sink:
        for label, _, path in records:
            sink.write({"image": Image.open(path), "label": label, "name": path.name})
    return out


def write_ilsvrc(out, records):
    out.mkdir()
    with tarfile.open(out / "ILSVRC2012_img_train.tar", "w") as outer:
        for name in sorted({name for _, name, _ in records}):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for _, of, path in records:
                    if of == name:
                        tar.add(path, path.name)
            info = tarfile.TarInfo(f"{name}.tar")
            info.size = len(inner.getvalue())
            outer.addfile(info, io.BytesIO(inner.getvalue()))
    return out


def write_manifest(out, folder, records):
    shutil.copytree(folder, out)
    with open(out / "list.csv", "w", newline="") as file:
        sink = csv.writer(file)
        sink.writerow(["path", "label"])
        sink.writerows([f"{name}/{path.name}", name] for _, name, path in records)
    return out / "list.csv"


def write_cifar(root):
    """Batches of random pixels, whose MD5 sums torchvision is told."""
    out = root / "cifar-10-batches-py"
    out.mkdir(parents=True)
    random = np.random.default_rng(1)
    for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
        data = random.integers(0, 256, (20, 3072), np.uint8)
        batch = {"data": data, "labels": [n % 10 for n in range(20)], "filenames": [f"{n}.png" for n in range(20)]}
        (out / name).write_bytes(pickle.dumps(batch, protocol=4))
    meta = {"label_names": [f"class {n}" for n in range(10)]}
    (out / "batches.meta").write_bytes(pickle.dumps(meta, protocol=4))
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in out.iterdir()}

    class Cifar(torchvision.datasets.CIFAR10):
        train_list = [[name, sums[name]] for name in sorted(sums) if name.startswith("data")]
        test_list = [["test_batch", sums["test_batch"]]]
        meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}

    return Cifar(str(root), train=True)


def compare_cifar(binary, work):
    expected = write_cifar(work / "cifar")
    path = f"{work / 'cifar'}#train"
    forebay(binary, "index", path)
    recipe = ["--recipe", "eval", "--set", "crop.resize = 32", "--set", "image_size = 32",
              "--batch", 100, "--microbatches", 1]
    forebay(binary, "dump", "--dataset", path, *recipe, "--out", work / "cifar.safetensors", "--decoded", work / "png")
    for number, (image, label) in enumerate(expected):
        found = np.asarray(Image.open(work / "png" / f"{number}.png"))
        if not np.array_equal(found, np.asarray(image)):
            return f"cifar: image {number} of label {label} differs"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--forebay", default=ROOT / "target/debug/forebay")
    parser.add_argument("--keep")
    args = parser.parse_args()
    work = pathlib.Path(args.keep or tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    forebay(args.forebay, "sample-data", work / "data", "--classes", 10, "--per-class", 10, "--val-per-class", 0)
    folder = work / "data/train"
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"n{number:08}")
    records = images(folder)
    written = {
        "ImageFolder": folder,
        "WebDataset": write_webdataset(work / "wds", records),
        "TF-slim": write_tfrecord(work / "slim", records, True),
        "TFDS": write_tfrecord(work / "tfds", records, False),
        "Parquet": write_parquet(work / "parquet", folder, records),
        "MDS": write_mds(work / "mds", records),
        "ILSVRC": write_ilsvrc(work / "ilsvrc", records),
        "manifest": write_manifest(work / "manifest", folder, records),
    }
    contents = {}
    for name, path in written.items():
        summary = json.loads(forebay(args.forebay, "index", "--json", path))
        contents[name] = summary["content"]
        print(f"{name:12} {summary['layout']:16} {summary['records']} records, content {summary['content'][:16]}")
    faults = [f"{name}: other content" for name, content in contents.items() if content != contents["ImageFolder"]]
    cifar = compare_cifar(args.forebay, work)
    faults += [cifar] if cifar else []
    print("\n".join(faults) or "all are equal, and CIFAR's pixels are those of torchvision")
    if not args.keep:
        shutil.rmtree(work)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
