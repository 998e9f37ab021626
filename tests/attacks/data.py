"""The datasets of the attacks, which are made once in a folder and indexed for each version of forebay."""

import hashlib
import os
import pathlib
import subprocess

from PIL import Image

TINY = pathlib.Path(__file__).resolve().parents[1] / "data" / "tiny.jpg"
BLOCK = 512
CLASSES = 1_000_000  # of the dataset `many`
LARGE = (13_400, 13_300)  # almost the largest picture that Pillow opens
COPIES = 20  # of each photograph


def train(folder, forebay, photographs):
    """An ImageFolder of links to photographs, several to each; without any, procedural pictures."""
    if photographs is None:
        command = [forebay, "sample-data", folder / "sample", "--classes=10", "--per-class=60", "--val-per-class=1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (folder / "sample" / "train").rename(folder / "train")
        return
    for photograph in sorted(photographs.glob("*/*")):
        of_class = folder / "train" / photograph.parent.name
        of_class.mkdir(parents=True, exist_ok=True)
        for copy in range(COPIES):
            (of_class / f"{copy}-{photograph.name}").symlink_to(photograph.resolve())


def member(name, size):
    """The header of a file in a tar."""
    head = bytearray(BLOCK)
    for at, text in {0: name, 100: b"0000644", 108: b"0000000", 116: b"0000000", 124: b"%011o" % size,
                     136: b"00000000000", 148: b" " * 8, 156: b"0", 257: b"ustar\0" b"00"}.items():
        head[at:at + len(text)] = text
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def many(folder, records):
    """A WebDataset of tiny pictures, and many classes. Python's tarfile would take minutes."""
    (folder / "many").mkdir()
    picture, label = TINY.read_bytes(), b"0"
    pad = lambda body: body + bytes(-len(body) % BLOCK)
    bodies = {b"jpg": (len(picture), pad(picture)), b"cls": (len(label), pad(label))}
    with open(folder / "many" / "many-000000.tar", "wb") as tar:
        for record in range(records):
            for extension, (size, body) in bodies.items():
                tar.write(member(b"%08d.%s" % (record, extension), size) + body)
        tar.write(bytes(2 * BLOCK))
    (folder / "many" / "classes.txt").write_text("".join(f"n{number:08}\n" for number in range(CLASSES)))


def large(folder):
    """An ImageFolder of one picture."""
    (folder / "large" / "a").mkdir(parents=True)
    gradient = Image.linear_gradient("L").resize(LARGE)
    Image.merge("RGB", [gradient] * 3).save(folder / "large" / "a" / "large.jpg", quality=50)


def piped(folder):
    """The record that becomes a pipe after it was indexed."""
    return folder / "pipe" / "a" / "07.jpg"


def pipe(folder):
    """An ImageFolder of sixteen pictures."""
    (folder / "pipe" / "a").mkdir(parents=True)
    for number in range(16):
        (folder / "pipe" / "a" / f"{number:02}.jpg").write_bytes(TINY.read_bytes())


def prepare(folder, forebay, names, photographs, records):
    """Makes and indexes those datasets that are missing in a folder. Returns the folder of this version's indexes."""
    makers = {"train": lambda: train(folder, forebay, photographs), "many": lambda: many(folder, records),
              "large": lambda: large(folder), "pipe": lambda: pipe(folder)}
    with open(forebay, "rb") as binary:
        indexes = folder / ("index-" + hashlib.file_digest(binary, "sha256").hexdigest()[:16])
    indexes.mkdir(exist_ok=True)
    for name in sorted(names):
        if not (folder / name).exists():
            makers[name]()
        indexed = indexes / f"{name}.indexed"
        if indexed.exists():
            continue
        if name == "pipe":
            piped(folder).unlink()
            piped(folder).write_bytes(TINY.read_bytes())
        subprocess.run([forebay, "index", folder / name, "--index-dir", indexes], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        indexed.touch()
        if name == "pipe":
            piped(folder).unlink()
            os.mkfifo(piped(folder))
    return indexes
