"""Layouts as the libraries that people use write them: index each, and compare it with an ImageFolder.

    run.sh [--forebay PATH] [--keep DIR]

200 images of `forebay sample-data`, and 50 of a split `val` where a layout has one, are written by webdataset,
datasets, pyarrow, the tfrecord package (fields of TF-slim and of TensorFlow Datasets), MosaicML Streaming, tarfile and
scipy. For all of them `content` of `forebay index` must be that of the ImageFolder, and so must every bit that
`forebay dump` writes for all records with the recipe eval: in the order of the ImageFolder, or record by record where
a layout orders them in another way. torchvision reads the batches of CIFAR that forebay reads, and pixels are
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
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
import tfrecord
import torchvision
import webdataset
from PIL import Image
from streaming import MDSWriter

datasets.disable_progress_bars()
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CLASSES = 10
PER_CLASS = {"train": 20, "val": 5}
SIDE = 64


class Forebay:
    """The command, with a folder of indexes."""

    def __init__(self, binary, work):
        self.binary, self.indexes, self.out = binary, work / "indexes", work / "dump.safetensors"
        self.indexes.mkdir(exist_ok=True)

    def run(self, *args):
        done = subprocess.run([self.binary, *map(str, args)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"forebay {' '.join(map(str, args))}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    def index(self, path, *args):
        return json.loads(self.run("index", "--json", "--index-dir", self.indexes, path, *args))

    def dump(self, path, records, side=SIDE, *args):
        """Labels and pixels of all records, in dataset order."""
        recipe = ["--recipe", "eval", "--set", f"crop.resize = {side}", "--set", f"image_size = {side}",
                  "--batch", records, "--microbatches", 1]
        self.run("dump", "--index-dir", self.indexes, "--dataset", path, *recipe, "--out", self.out, *args)
        data = self.out.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header, body = json.loads(data[8:8 + length]), data[8 + length:]

        def tensor(name, dtype):
            start, end = header[name]["data_offsets"]
            return np.frombuffer(body[start:end], dtype).reshape(header[name]["shape"])

        assert np.array_equal(tensor("record", np.int64), np.arange(records)), "eval takes each record once"
        return tensor("label_a", np.int64), tensor("pixels", np.uint8)


def images(folder):
    """Label, class, path of each image, in the order of an ImageFolder."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return [(n, c.name, image) for n, c in enumerate(classes) for image in sorted(c.iterdir())]


def write_tar(file, members):
    with tarfile.open(file, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_webdataset(out, splits):
    out.mkdir()
    for split, records in splits.items():
        with webdataset.ShardWriter(str(out / f"x-{split}-%06d.tar"), maxcount=30, verbose=0) as sink:
            for number, (label, _, path) in enumerate(records):
                sink.write({"__key__": f"{number:06}", path.suffix[1:].lower(): path.read_bytes(), "cls": label})


def write_timm(out, splits):
    """As timm's datasets on the hub: labels in .json, and a description of the splits."""
    out.mkdir()
    info = {"name": "x", "splits": {}}
    for split, records in splits.items():
        name = {"val": "validation"}.get(split, split)
        shards = []
        for number in range(0, len(records), 70):
            part = records[number:number + 70]
            shards.append((f"x-{name}-{number // 70:04}.tar", len(part)))
            with webdataset.TarWriter(str(out / shards[-1][0])) as sink:
                for label, wnid, path in part:
                    meta = {"label": 0, "filename": path.name, "target": {"id": label, "wnid": wnid}}
                    suffix = path.suffix[1:].lower().replace("jpeg", "jpg")
                    sink.write({"__key__": path.stem, suffix: path.read_bytes(), "json": meta})
        names, lengths = zip(*shards)
        info["splits"][name] = {"name": name, "filenames": names, "shard_lengths": lengths, "num_samples": sum(lengths)}
    (out / "_info.json").write_text(json.dumps(info))


def write_tfrecord(out, splits, slim):
    out.mkdir()
    for split, records in splits.items():
        name = {"val": "validation"}.get(split, split)
        half = len(records) // 2
        for shard, part in enumerate((records[:half], records[half:])):
            file = f"{name}-{shard:05}-of-00002" if slim else f"x-{name}.tfrecord-{shard:05}-of-00002"
            writer = tfrecord.TFRecordWriter(str(out / file))
            for label, wnid, path in part:
                data, name_of = path.read_bytes(), path.name.encode()
                if slim:
                    fields = {"image/encoded": (data, "byte"), "image/class/label": (label + 1, "int"),
                              "image/class/synset": (wnid.encode(), "byte"), "image/height": (9, "int"),
                              "image/filename": (name_of, "byte")}
                else:
                    fields = {"image": (data, "byte"), "label": (label, "int"), "file_name": (name_of, "byte")}
                writer.write(fields)
            writer.close()
    if not slim:
        feature = "tensorflow_datasets.core.features."
        features = {"file_name": {"pythonClassName": feature + "text_feature.Text"},
                    "image": {"pythonClassName": feature + "image_feature.Image"},
                    "label": {"pythonClassName": feature + "class_label_feature.ClassLabel",
                              "classLabel": {"numClasses": str(CLASSES)}}}
        described = {"pythonClassName": feature + "features_dict.FeaturesDict", "featuresDict": {"features": features}}
        (out / "features.json").write_text(json.dumps(described))
        names = sorted({wnid for _, wnid, _ in splits["train"]})
        (out / "label.labels.txt").write_text("".join(f"{name}\n" for name in names))


def dataset_of(records):
    names = sorted({wnid for _, wnid, _ in records})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [{"bytes": path.read_bytes(), "path": path.name} for _, _, path in records],
            "label": [label for label, _, _ in records]}
    return datasets.Dataset.from_dict(rows, features=features)


def write_parquet(out, splits):
    """As the hub has it."""
    out.mkdir()
    for split, records in splits.items():
        name = {"val": "validation"}.get(split, split)
        dataset_of(records).to_parquet(str(out / f"{name}-00000-of-00001.parquet"))


def write_parquet_files(out, records):
    """Compressions and row groups that are in use, each a file of its own."""
    out.mkdir()
    table = dataset_of(records).data.table
    # Older versions of datasets: 100 images in one dictionary page.
    pq.write_table(table, out / "groups.parquet", row_group_size=100, compression="snappy")
    for codec in ["none", "snappy", "zstd", "gzip"]:
        pq.write_table(table, out / f"{codec}.parquet", compression=codec)
        pq.write_table(table, out / f"{codec}-groups.parquet", compression=codec, row_group_size=100)
    binary = pa.table({"image": [path.read_bytes() for _, _, path in records], "label": [n for n, _, _ in records]})
    pq.write_table(binary, out / "binary.parquet", use_dictionary=False, data_page_version="2.0")
    return sorted(out.iterdir())


def write_mds(out, splits, compression, encoding):
    for split, records in splits.items():
        columns = {"image": encoding, "label": "int", "name": "str"}
        with MDSWriter(out=str(out / split), columns=columns, compression=compression, size_limit=1 << 18) as sink:
            for label, _, path in records:
                image = Image.open(path) if encoding == "jpeg" else path.read_bytes()
                sink.write({"image": image, "label": label, "name": path.name})


def validation(records):
    """Names of validation images, whose order is not that of the classes."""
    records = sorted(records, key=lambda record: hashlib.md5(record[2].name.encode()).digest())
    return [(f"ILSVRC2012_val_{number + 1:08}.JPEG", *record) for number, record in enumerate(records)]


def write_ilsvrc(out, splits):
    out.mkdir()
    wnids = sorted({wnid for _, wnid, _ in splits["train"]})
    inner = []
    for wnid in wnids:
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as members:
            for _, of, path in splits["train"]:
                if of == wnid:
                    members.add(path, path.name)
        inner.append((f"{wnid}.tar", tar.getvalue()))
    write_tar(out / "ILSVRC2012_img_train.tar", inner)
    named = validation(splits["val"])
    write_tar(out / "ILSVRC2012_img_val.tar", [(name, path.read_bytes()) for name, _, _, path in named])
    # The ids of the devkit are not in the order of the synsets, and some synsets are parents of others.
    ids = {wnid: CLASSES - number for number, wnid in enumerate(wnids)}
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O"),
             ("children", "O"), ("wordnet_height", "O"), ("num_train_images", "O")]
    rows = [(float(ids[wnid]), wnid, f"{wnid}, a word", "a gloss", 0.0, np.zeros((1, 0)), 0.0, 20.0) for wnid in wnids]
    rows.append((float(CLASSES + 1), "n00000001", "all", "a gloss", float(CLASSES), np.arange(1.0, 11.0), 1.0, 0.0))
    rows.sort()
    table = np.empty((len(rows), 1), dtype=kinds)
    for number, row in enumerate(rows):
        table[number, 0] = row
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": table}, do_compression=True)
    truth = "".join(f"{ids[wnid]}\n" for _, _, wnid, _ in named)
    with tarfile.open(out / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        for name, data in [("meta.mat", meta.getvalue()), ("ILSVRC2012_validation_ground_truth.txt", truth.encode())]:
            info = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_kaggle(out, folder, splits):
    data = out / "ILSVRC/Data/CLS-LOC"
    shutil.copytree(folder / "train", data / "train")
    (data / "val").mkdir()
    with open(out / "LOC_val_solution.csv", "w", newline="") as file:
        sink = csv.writer(file)
        sink.writerow(["ImageId", "PredictionString"])
        for name, _, wnid, path in reversed(validation(splits["val"])):
            shutil.copy(path, data / "val" / name)
            sink.writerow([name.removesuffix(".JPEG"), f"{wnid} 1 2 3 4 {wnid} 5 6 7 8 "])
    wnids = sorted({wnid for _, wnid, _ in splits["train"]})
    (out / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} a word, another\n" for wnid in wnids))


def write_manifests(out, folder, splits):
    shutil.copytree(folder, out)
    rows = [(f"{split}/{wnid}/{path.name}", wnid, split) for split in splits for _, wnid, path in splits[split]]
    with open(out / "list.csv", "w", newline="") as file:
        sink = csv.writer(file)
        sink.writerow(["path", "label", "split"])
        sink.writerows(rows)
    paths, labels, names = zip(*rows)
    pq.write_table(pa.table({"path": paths, "label": labels, "split": names}), out / "list.parquet")
    # Numbers, with the names of classes that datasets stores.
    features = datasets.Features({"file_name": datasets.Value("string"), "split": datasets.Value("string"),
                                  "label": datasets.ClassLabel(names=sorted(set(labels)))})
    columns = {"file_name": paths, "label": labels, "split": names}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(out / "classes.parquet"))


def write_odd(out, records):
    """An ImageFolder of JPEGs, PNGs and WebPs."""
    for number, (_, wnid, path) in enumerate(records):
        (out / wnid).mkdir(parents=True, exist_ok=True)
        kind = ["jpeg", "png", "webp"][number % 3]
        if kind == "jpeg":
            shutil.copy(path, out / wnid / f"{number:04}.JPEG")
        else:
            Image.open(path).save(out / wnid / f"{number:04}.{kind}", quality=80)


def cases(work, folder, splits):
    """Path, split, further arguments, and whether the order is that of the ImageFolder, for each layout."""
    both = {
        "WebDataset (ShardWriter)": (write_webdataset, (), "wds"),
        "WebDataset (timm)": (write_timm, (), "timm"),
        "TFRecord (TF-slim)": (write_tfrecord, (True,), "slim"),
        "TFRecord (TFDS)": (write_tfrecord, (False,), "tfds"),
        "Parquet (datasets)": (write_parquet, (), "parquet"),
        "MDS (jpeg)": (write_mds, (None, "jpeg"), "mds"),
        "MDS (bytes, zstd)": (write_mds, ("zstd", "bytes"), "mds-zstd"),
        "MDS (jpeg, zstd:7)": (write_mds, ("zstd:7", "jpeg"), "mds-zstd7"),
    }
    for name, (write, more, to) in both.items():
        write(work / to, splits, *more)
        for split in splits:
            args = ("--label", "json:target.id") if to == "timm" else ()
            yield name, f"{work / to}#{split}", split, args, True
    write_ilsvrc(work / "ilsvrc", splits)
    write_kaggle(work / "kaggle", folder, splits)
    write_manifests(work / "manifests", folder, splits)
    for split in splits:
        for name, to in [("ILSVRC tars", "ilsvrc"), ("Kaggle", "kaggle")]:
            yield name, f"{work / to}#{split}", split, (), split == "train"
        for file in ["list.csv", "list.parquet", "classes.parquet"]:
            yield f"manifest ({file})", f"{work / 'manifests' / file}#{split}", split, (), True
    for file in write_parquet_files(work / "parquet-files", splits["train"]):
        yield f"Parquet ({file.name})", file, "train", (), True


def write_cifar(root, hundred):
    """Batches of random pixels, whose MD5 sums torchvision is told."""
    out = root / ("cifar-100-python" if hundred else "cifar-10-batches-py")
    out.mkdir(parents=True)
    random = np.random.default_rng(1)
    files = ["train", "test"] if hundred else [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    for name in files:
        data = random.integers(0, 256, (20, 3072), np.uint8)
        batch = {"data": data, "filenames": [f"{n}.png" for n in range(20)]}
        if hundred:
            batch |= {"fine_labels": [5 * n for n in range(20)], "coarse_labels": [n % 20 for n in range(20)]}
        else:
            batch["labels"] = [n % 10 for n in range(20)]
        (out / name).write_bytes(pickle.dumps(batch, protocol=4))
    key = "fine_label_names" if hundred else "label_names"
    meta = {key: [f"class {n}" for n in range(100 if hundred else 10)]}
    if hundred:
        meta["coarse_label_names"] = [f"group {n}" for n in range(20)]
    meta_name = "meta" if hundred else "batches.meta"
    (out / meta_name).write_bytes(pickle.dumps(meta, protocol=4))
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in out.iterdir()}

    class Cifar(torchvision.datasets.CIFAR100 if hundred else torchvision.datasets.CIFAR10):
        train_list = [[name, sums[name]] for name in files[:-1]]
        test_list = [[files[-1], sums[files[-1]]]]
        meta = {"filename": meta_name, "key": key, "md5": sums[meta_name]}

    return {"train": Cifar(str(root), train=True), "test": Cifar(str(root), train=False)}


def compare_cifar(forebay, work, hundred):
    root = work / f"cifar-{100 if hundred else 10}"
    for split, expected in write_cifar(root, hundred).items():
        path = f"{root}#{split}"
        forebay.index(path)
        labels, pixels = forebay.dump(path, len(expected), 32)
        for number, (image, label) in enumerate(expected):
            if labels[number] != label or not np.array_equal(pixels[number], np.asarray(image)):
                yield f"{root.name}: image {number} of label {label} of the split {split} differs"


def fault_of(expected, found, ordered):
    """What differs between the labels and pixels of two datasets, if anything does."""
    if not ordered:
        def by_record(dump):
            return sorted((label, pixels.tobytes()) for label, pixels in zip(*dump))
        return None if by_record(expected) == by_record(found) else "other labels or pixels, in any order"
    for what, one, other in zip(("labels", "pixels"), expected, found):
        if not np.array_equal(one, other):
            return f"other {what}"
    return None


def compare(forebay, name, path, args, expected, ordered=True):
    summary, dump = expected
    found = forebay.index(path, *args)
    print(f"{name:36} {found['layout']:16} {found['records']} records, content {found['content'][:16]}")
    if found["bad"] or found["content"] != summary["content"]:
        return [f"{name}: other content"]
    fault = fault_of(dump, forebay.dump(path, summary["records"]), ordered)
    return [f"{name}: {fault}"] if fault else []


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--forebay", default=ROOT / "target/debug/forebay")
    parser.add_argument("--keep")
    args = parser.parse_args()
    work = pathlib.Path(args.keep or tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    forebay = Forebay(args.forebay, work)
    forebay.run("sample-data", work / "data", "--classes", CLASSES, "--per-class", PER_CLASS["train"],
                "--val-per-class", PER_CLASS["val"])
    folder = work / "data"
    for split in PER_CLASS:
        for number, path in enumerate(sorted((folder / split).iterdir())):
            for image in path.iterdir():
                image.rename(path / f"n{number:08}_{image.stem}.JPEG")
            path.rename(folder / split / f"n{number:08}")
    splits = {split: images(folder / split) for split in PER_CLASS}
    assert [len(records) for records in splits.values()] == [200, 50]

    def expected(path, records):
        return forebay.index(path), forebay.dump(path, records)

    folders = {split: expected(folder / split, len(records)) for split, records in splits.items()}
    faults = []
    for name, path, split, more, ordered in cases(work, folder, splits):
        faults += compare(forebay, f"{name} {split}", path, more, folders[split], ordered)
    odd = work / "odd"
    write_odd(odd, splits["train"][::4])
    records = images(odd)
    of_odd = expected(odd, len(records))
    write_timm(work / "odd-timm", {"train": records})
    write_parquet(work / "odd-parquet", {"train": records})
    label = ("--label", "json:target.id")
    faults += compare(forebay, "png, webp: WebDataset (timm)", work / "odd-timm", label, of_odd)
    faults += compare(forebay, "png, webp: Parquet (datasets)", work / "odd-parquet", (), of_odd)
    for hundred in [False, True]:
        faults += compare_cifar(forebay, work, hundred)
    print("\n".join(faults) or "all are equal, and CIFAR's pixels are those of torchvision")
    if not args.keep:
        shutil.rmtree(work)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
