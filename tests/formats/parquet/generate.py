"""Writes the Parquet files of `tests/dataset/parquet.rs` with pyarrow and datasets, and what is in them.

    pip install -r tests/formats/parquet/requirements.txt
    python tests/formats/parquet/generate.py

Each file is a case of `cases.json`: for each row, the number of the image in `images/` or null, the label or null, and
the name that the record gets.
"""

import base64
import io
import json
import math
import pathlib

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
from PIL import Image

OUT = pathlib.Path(__file__).parent
NAMES = ["cat", "dog", "emu"]
LABELS = [2, 0, 1, 2, 1, 0]
CASES = {}


def picture(number):
    """A small image, procedural. The fourth is a PNG."""
    side = 14 + 3 * number

    def pixel(x, y):
        wave = math.sin((x * (number + 2) + y * 5) / 7)
        return (int(127 + 120 * wave), (x * 13 + number * 40) % 256, (y * 17 + x * y) % 256)

    image = Image.new("RGB", (side, side - 3))
    image.putdata([pixel(x, y) for y in range(image.height) for x in range(image.width)])
    file = io.BytesIO()
    if number == 3:
        image.convert("L").save(file, "PNG", optimize=True)
    else:
        image.save(file, "JPEG", quality=60, optimize=True)
    return file.getvalue()


IMAGES = [picture(number) for number in range(len(LABELS))]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def struct(number):
    return {"bytes": IMAGES[number], "path": f"im_{number}.jpg"}


def row(file, index, image, label, path=True):
    """What is expected of a row."""
    name = f"im_{image}.jpg" if path and image is not None else str(index)
    return {"image": image, "label": label, "name": f"{file}/{name}"}


def write(name, columns, rows, classes=None, schema=None, **options):
    file = f"{name}.parquet"
    # Statistics have whole images; files of datasets have them, too.
    options.setdefault("write_statistics", False)
    pq.write_table(pa.table(columns, schema=schema), OUT / file, store_schema=False, **options)
    CASES[file] = {"classes": classes or ["0", "1", "2"], "rows": rows}


def all_of(count, path=True):
    """The expected rows of `count` images, one after another, again and again."""
    return lambda name: [
        row(f"{name}.parquet", i, i % len(IMAGES), LABELS[i % len(IMAGES)], path) for i in range(count)
    ]


def columns(count):
    numbers = [i % len(IMAGES) for i in range(count)]
    images = pa.array([struct(number) for number in numbers], STRUCT)
    return {"image": images, "label": pa.array([LABELS[number] for number in numbers], pa.int64())}


def encodings():
    for codec in ["none", "snappy", "zstd", "gzip"]:
        for version in ["1", "2"]:
            for kind in ["plain", "dictionary"]:
                name = f"{codec}_v{version}_{kind}"
                options = {"data_page_version": f"{version}.0", "use_dictionary": kind == "dictionary"}
                write(name, columns(6), all_of(6)(name), compression=codec, row_group_size=4, **options)


def pages():
    """Many pages, pages with copies of whole images, and a dictionary that gets too large."""
    for codec in ["snappy", "zstd"]:
        name = f"pages_{codec}"
        write(name, columns(30), all_of(30)(name), compression=codec, use_dictionary=False,
              data_page_size=2000, write_batch_size=2, write_page_checksum=True)
    write("repeats_snappy", columns(60), all_of(60)("repeats_snappy"), use_dictionary=False)
    write("fallback", columns(24), all_of(24)("fallback"), dictionary_pagesize_limit=900, write_batch_size=2)


def schemas():
    name = "binary"
    plain = {"image": pa.array(IMAGES, pa.binary()), "label": pa.array(LABELS, pa.int32())}
    write(name, plain, all_of(6, path=False)(name))
    required = pa.schema([
        pa.field("label", pa.int64(), nullable=False), pa.field("image", pa.binary(), nullable=False)])
    write("required", plain, all_of(6, path=False)("required"), schema=required)
    texts = {"image": columns(6)["image"], "label": [NAMES[label] for label in LABELS]}
    write("text", texts, all_of(6)("text"), classes=NAMES)
    others = {"id": list(range(6)), "picture": IMAGES, "class": pa.array(LABELS, pa.int64())}
    write("others", others, all_of(6, path=False)("others"))
    lists = {"image": [[image] for image in IMAGES], "label": LABELS}
    write("list", lists, [])
    nested = {"sample": [{"image": struct(n), "label": LABELS[n]} for n in range(6)]}
    write("nested", nested, all_of(6)("nested"))


def nulls():
    file = "nulls.parquet"
    images = [struct(0), None, {"bytes": None, "path": "x.jpg"}, struct(1), {"bytes": IMAGES[2], "path": None}]
    labels = [2, 1, 0, None, 1]
    table = {"image": pa.array(images, STRUCT), "label": pa.array(labels, pa.int64())}
    rows = [row(file, 0, 0, 2), row(file, 1, None, 1), row(file, 2, None, 0), row(file, 3, 1, None),
            row(file, 4, 2, 1, path=False)]
    for version in ["1", "2"]:
        write("nulls", table, rows, data_page_version=f"{version}.0")
        write(f"nulls_v{version}", table, [dict(r, name=r["name"].replace("nulls", f"nulls_v{version}")) for r in rows],
              data_page_version=f"{version}.0")
    del CASES[file]
    (OUT / file).unlink()


def sorted_by_label():
    """In the order of an ImageFolder."""
    order = sorted(range(6), key=lambda number: (LABELS[number], number))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    data = {"image": [struct(n) for n in order], "label": [LABELS[n] for n in order]}
    # The schema has what datasets stores about the columns.
    dataset = datasets.Dataset.from_dict(data, features=features)
    for codec in ["none", "snappy", "zstd", "gzip"]:
        file = f"sorted_{codec}.parquet"
        pq.write_table(dataset.data.table, OUT / file, compression=codec, write_statistics=False)
        rows = [row(file, i, number, LABELS[number]) for i, number in enumerate(order)]
        CASES[file] = {"classes": NAMES, "rows": rows}


def refused():
    for name, options in {
        "brotli": {"compression": "brotli"},
        "lz4": {"compression": "lz4"},
        "delta": {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}},
    }.items():
        write(name, columns(2), [], **options)
    # A dictionary of one name, for many rows.
    images = pa.array([dict(struct(0), path="x" * 4000)] * 500, STRUCT)
    write("names", {"image": images, "label": [0] * 500}, [], data_page_version="2.0")
    negative = dict(columns(2), label=pa.array([0, -1], pa.int64()))
    write("unlabeled", negative, [])


class Kms(encryption.KmsClient):
    """Keys that are wrapped by not wrapping them."""

    def wrap_key(self, key, master):
        return base64.b64encode(key)

    def unwrap_key(self, key, master):
        return base64.b64decode(key)


def encrypted():
    factory = encryption.CryptoFactory(lambda _: Kms())
    for name, plaintext in [("encrypted", False), ("encrypted_columns", True)]:
        config = encryption.EncryptionConfiguration(
            footer_key="f", column_keys={"c": ["image.bytes"]}, plaintext_footer=plaintext)
        properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
        write(name, columns(2), [], encryption_properties=properties)


def of_datasets():
    """As the hub's datasets are written: an image feature and class labels."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    data = {"image": [struct(n) for n in range(6)], "label": LABELS}
    dataset = datasets.Dataset.from_dict(data, features=features)
    dataset.to_parquet(OUT / "datasets.parquet")
    CASES["datasets.parquet"] = {"classes": NAMES, "rows": all_of(6)("datasets")}
    names = datasets.Features({"img": datasets.Image(), "species": datasets.ClassLabel(names=NAMES[:2])})
    data = {"img": [struct(1), struct(2)], "species": [0, 1]}
    datasets.Dataset.from_dict(data, features=names).to_parquet(OUT / "marked.parquet")
    rows = [row("marked.parquet", 0, 1, 0), row("marked.parquet", 1, 2, 1)]
    CASES["marked.parquet"] = {"classes": NAMES[:2], "rows": rows}


def manifests():
    """Paths of `images/` instead of images, with labels that are numbers, text, and classes of datasets."""
    paths = [f"images/{number}.jpg" for number in range(6)]
    splits = ["train", "train", "val", "train", "val", None]
    options = {"store_schema": False, "write_statistics": False}
    table = pa.table({"label": pa.array(LABELS, pa.int64()), "split": splits, "path": paths})
    pq.write_table(table, OUT / "manifest.parquet", row_group_size=4, **options)
    # `image` is text here, and null values are skipped.
    names = [NAMES[label] for label in LABELS[:4]] + [None, NAMES[0]]
    table = pa.table({"image": paths[:5] + [None], "class": pa.array(names).dictionary_encode()})
    pq.write_table(table, OUT / "manifest_text.parquet", compression="zstd", **options)
    features = datasets.Features(
        {"photo": datasets.Value("string"), "hash": datasets.Value("binary"), "kind": datasets.ClassLabel(names=NAMES)})
    data = {"photo": paths, "hash": [path.encode() for path in paths], "kind": LABELS}
    datasets.Dataset.from_dict(data, features=features).to_parquet(OUT / "manifest_classes.parquet")


def main():
    for number, image in enumerate(IMAGES):
        (OUT / f"images/{number}.jpg").write_bytes(image)
    for make in [encodings, pages, schemas, nulls, sorted_by_label, refused, encrypted, of_datasets,
                 manifests]:
        make()
    cases = ",\n".join(f"{json.dumps(file)}: {json.dumps(case)}" for file, case in CASES.items())
    (OUT / "cases.json").write_text(f"{{\n{cases}\n}}\n")
    total = sum(path.stat().st_size for path in OUT.glob("*.parquet"))
    print(f"{len(CASES)} files of {total} bytes")


if __name__ == "__main__":
    main()
