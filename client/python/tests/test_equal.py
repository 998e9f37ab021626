"""The same bits: as `forebay dump` writes, as timm's targets, and from a path as from servers."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import forebay
from conftest import SMALL, Server, command

MIXED: dict[str, object] = {**SMALL, "repeats": 1}


def dumped(data: Path, folder: Path, name: tuple[int, int, int], *arguments: str) -> dict[str, Any]:
    """A microbatch as `forebay dump` writes it."""
    epoch, step, index = (str(number) for number in name)
    file = folder / "dump.safetensors"
    dump = command("dump", "--dataset", str(data / "train"), "--out", str(file), *arguments)
    subprocess.run([*dump, "--epoch", epoch, "--step", step, "--index", index], check=True, capture_output=True)
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    types = {"I64": np.int64, "F32": np.float32, "U8": np.uint8}
    tensors = {}
    for tensor, entry in header.items():
        if tensor != "__metadata__":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            tensors[tensor] = np.frombuffer(raw[start:end], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def test_batches_equal_those_of_the_command(server: Server, data: Path, tmp_path: Path) -> None:
    arguments = [f"--set={name}={value}" for name, value in MIXED.items()]
    with forebay.Loader(server.endpoint, dataset="train", set=MIXED, seed=3, epoch=2, merge=False) as loader:
        batches = list(loader)
        for batch in (batches[0], batches[13], batches[-1]):
            expected = dumped(data, tmp_path, (2, batch.step, batch.microbatches[0]), "--seed", "3", *arguments)
            assert (np.asarray(batch.pixels) == expected["pixels"]).all()
            assert batch.label_a.tolist() == expected["label_a"].tolist()
            assert batch.label_b.tolist() == expected["label_b"].tolist()
            assert batch.lam.tobytes() == expected["lambda"].tobytes()
            assert batch.records.tolist() == expected["record"].tolist()


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_timms_bit_for_bit(server: Server, mode: str, smoothing: float) -> None:
    torch = pytest.importorskip("torch")
    mixup = pytest.importorskip("timm.data.mixup")
    changes = {**MIXED, "mix.mode": mode, "smoothing": smoothing}
    mixed = 0
    with forebay.Loader(server.endpoint, dataset="train", set=changes, merge=False) as loader:
        for batch in loader:
            labels, lam = torch.tensor(batch.label_a.tolist()), torch.tensor(batch.lam.tolist())
            assert labels.flip(0)[lam < 1].tolist() == torch.tensor(batch.label_b.tolist())[lam < 1].tolist()
            # As FastCollateMixup calls it: one number for a batch, or a column of them.
            weight = lam[0].item() if mode == "batch" else lam.unsqueeze(1)
            expected = mixup.mixup_target(labels, 1000, weight, smoothing)
            found = torch.from_dlpack(batch.targets(num_classes=1000))
            assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
            mixed += int((lam < 1).sum())
        assert batch.targets().shape == (4, 4)
        for wrong, says in [({"num_classes": 1}, "number of classes 1"), ({"smoothing": 2.0}, "smoothing 2")]:
            with pytest.raises(ValueError, match=says):
                for batch in loader:
                    batch.targets(**wrong)  # type: ignore[arg-type]
    assert mixed > 0


SCRIPT = Path(__file__).parent.parent / "examples" / "plain.py"


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:{}"], ids=["frames", "shared"])
def test_losses_are_the_same_from_a_path_and_from_two_servers_of_which_one_is_killed(
    data: Path, servers: Callable[..., Server], tmp_path: Path, listen: str
) -> None:
    pytest.importorskip("torch")

    def train(*source: str, kill: Server | None = None) -> list[str]:
        run = subprocess.Popen(
            [sys.executable, str(SCRIPT), *source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert run.stdout is not None and run.stderr is not None
        losses = []
        for line in run.stdout:
            losses.append(line)
            if kill is not None and len(losses) == 3:
                kill.kill()
        errors = run.stderr.read()
        assert run.wait() == 0, errors
        run.stdout.close()
        run.stderr.close()
        return losses

    one, two = (servers(listen=listen.format(tmp_path / name)) for name in "ab")
    expected = train(str(data / "train"))
    assert len(expected) == 8
    assert train(one.endpoint, two.endpoint) == expected
    assert train(one.endpoint, two.endpoint, kill=one) == expected
