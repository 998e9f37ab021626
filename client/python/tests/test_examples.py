"""Each example runs, and those that save a state continue from it as if nothing had happened."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import HANG

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(example: str, *arguments: object, launcher: tuple[str, ...] = ()) -> list[str]:
    command = [sys.executable, *launcher, str(EXAMPLES / example), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * HANG)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_distributed_data_parallel(data: Path) -> None:
    pytest.importorskip("torch")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    output = "\n".join(run("ddp.py", data / "train", launcher=launcher))
    # The two ranks write to one pipe, so that a line of one may begin within a line of the other.
    said = re.findall(r"rank (\d): 4 steps an epoch, (-?0x[0-9a-f.]+p[+-]\d+)", output)
    # Both have 4 steps an epoch, and the same parameters after 8.
    assert sorted(rank for rank, _ in said) == ["0", "1"], output
    assert len({parameters for _, parameters in said}) == 1


def test_lightning_resumes_within_an_epoch(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning")

    def losses(*arguments: object) -> list[str]:
        lines = run("lightning_module.py", data, *arguments)
        return [line for line in lines if line.split(" ")[-1].startswith("0x")]

    whole = losses()
    assert [line.split()[0] for line in whole] == [str(step) for step in range(8)]
    checkpoint = tmp_path / "checkpoint"
    assert losses(checkpoint, 3) == whole[:3]
    assert losses(checkpoint) == whole[3:]


def test_accelerate_resumes_within_an_epoch(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")

    def losses(*arguments: object) -> list[str]:
        return [line for line in run("accelerate_loop.py", data / "train", *arguments) if line.startswith("0x")]

    whole = losses()
    assert len(whole) == 8
    assert losses(tmp_path, 3) == whole[:3]
    assert losses(tmp_path) == whole[3:]


def test_the_trainer_of_hugging_face(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    assert run("hf_trainer.py", data / "train", tmp_path)[-1] == "8 steps, 2.0 epochs"


def test_jax(data: Path) -> None:
    pytest.importorskip("jax")
    lines = run("jax_loop.py", data / "train")
    assert len(lines) == 8 and lines[0].startswith("1.386294 on 1 devices")


def test_timm(data: Path) -> None:
    pytest.importorskip("timm")
    sizes = ("--data-dir", data, "--batch-size", 64)
    mixing = ("--aa", "rand-m7-mstd0.5-inc1", "--mixup", 0.1, "--bce-loss", "--mixup-off-epoch", 1)
    lines = run("timm_train.py", *sizes, *mixing)
    assert sum("(64, 4) torch.float32" in line for line in lines) == 4
    assert [line.split(",")[0] for line in lines if "right" in line] == ["epoch 0", "epoch 1"]
    plain = run("timm_train.py", *sizes, "--color-jitter", 0, "--epochs", 1)
    assert sum("(64,) torch.int64" in line for line in plain) == 2
