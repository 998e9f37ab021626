"""Sources: datasets in buckets, several that are mixed, splits, and paths with any name."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bucket
import forebay
from conftest import SMALL, Server, digest, eventually, server_processes, write_tars
from forebay import _forebay


def loader(source: Any, **options: Any) -> forebay.Loader:
    options = {"recipe": "a3", "set": SMALL, "threads": 1, **options}
    return forebay.Loader(source, **options)


def epoch(source: Any, **options: Any) -> list[Any]:
    """All batches of an epoch."""
    with loader(source, **options) as small:
        return [digest(batch) for batch in small]


@pytest.fixture
def remote(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bucket.Bucket]:
    """The training images as `s3://b/train`, without an index."""
    write_tars(data / "train", tmp_path / "buckets" / "b" / "train")
    with bucket.serve(tmp_path / "buckets") as served:
        for name, value in served.variables.items():
            monkeypatch.setenv(name, value)
        yield served


@pytest.fixture
def tars(data: Path, tmp_path: Path) -> Path:
    """The same images on disk."""
    write_tars(data / "train", tmp_path / "disk" / "train")
    return tmp_path / "disk" / "train"


def test_a_dataset_in_a_bucket_is_the_same_as_on_disk(remote: bucket.Bucket, tars: Path) -> None:
    expected = epoch(tars)
    with loader("s3://b/train") as small:
        assert [digest(batch) for batch in small] == expected
        assert small.stats()["servers"][0]["name"].startswith("unix:")
        (process,) = server_processes("s3://b/train")
        # The index lies in the bucket, and was read and written with the credentials of the environment.
        assert (remote.folder / "b" / "train.forebay").exists()
        assert all("key-of-the-test" in used for used in remote.authorizations)
        assert epoch("s3://b/train") == expected
        assert server_processes("s3://b/train") == [process]
    eventually("the server ends", lambda: server_processes("s3://b/train") == [])


def test_the_server_of_a_url_is_that_of_its_bucket(
    remote: bucket.Bucket, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tars(data / "val", tmp_path / "others" / "b" / "train")
    with bucket.serve(tmp_path / "others") as other, loader("s3://b/train") as small:
        monkeypatch.setenv("AWS_ENDPOINT_URL", other.variables["AWS_ENDPOINT_URL"])
        with loader("s3://b/train") as another:
            assert (small.describe()["records"], another.describe()["records"]) == (128, 20)
            assert len(server_processes("s3://b/train")) == 2
        # Keys may be renewed while it runs.
        monkeypatch.setenv("AWS_ENDPOINT_URL", remote.variables["AWS_ENDPOINT_URL"])
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another-key")
        with loader("s3://b/train") as another:
            assert another.describe()["records"] == 128
            eventually("one is left", lambda: len(server_processes("s3://b/train")) == 1)


def test_what_is_fetched_is_kept_in_the_disk_cache(remote: bucket.Bucket, tars: Path, tmp_path: Path) -> None:
    expected = epoch(tars)
    options: dict[str, Any] = {"disk_cache": tmp_path / "cache", "disk_cache_bytes": "64MiB"}
    assert epoch("s3://b/train", **options) == expected
    eventually("the server ends", lambda: server_processes("s3://b/train") == [])
    fetched = len(remote.authorizations)
    assert epoch("s3://b/train", **options) == expected
    assert len(remote.authorizations) == fetched, "everything is in the cache, and so is the index"


def test_a_web_server_is_a_bucket_without_lists(remote: bucket.Bucket, tars: Path, tmp_path: Path) -> None:
    url = f"http://{remote.host}/b/train/t-{{0..2}}.tar"
    with pytest.raises(forebay.DatasetError, match="takes no files; use index_dir to keep the index"):
        loader(url)
    assert epoch(url, index_dir=tmp_path / "index") == epoch(tars)
    # One without a path is an endpoint.
    with pytest.raises(forebay.ForebayWarning, match=f"retrying endpoint=http://{remote.host}"):
        loader(f"http://{remote.host}", threads=None)


def test_a_bucket_is_mixed_with_a_disk(remote: bucket.Bucket, data: Path, tmp_path: Path, tars: Path) -> None:
    shutil.copytree(tars, tmp_path / "copy")
    expected = epoch({tars: 1, tmp_path / "copy": 0.5})
    assert epoch({"s3://b/train": 1, str(tmp_path / "copy"): 0.5}) == expected
    assert len(expected) == 12


def test_an_error_of_a_bucket_says_what_and_where(remote: bucket.Bucket) -> None:
    with pytest.raises(forebay.DatasetError, match="s3://b/none is not a dataset: expected tars"):
        loader("s3://b/none")
    with pytest.raises(forebay.DatasetError, match='s3://b/train has no split "val"'):
        loader("s3://b/train", split="val")
    with pytest.raises(forebay.DatasetError, match="cannot open s3://.*it has credentials in it"):
        loader("s3://key:secret@b/train")


def test_indexing_a_bucket_that_does_not_answer_is_cancelled(remote: bucket.Bucket, tmp_path: Path) -> None:
    remote.answers.clear()
    indexing = _forebay.Datasets(str(tmp_path / "index")).index("s3://b/train", 1)
    eventually("shards are read", lambda: len(remote.authorizations) >= 3)
    assert not indexing.wait()
    indexing.cancel()
    eventually("it has ended", indexing.wait)
    with pytest.raises(RuntimeError, match="indexing was cancelled"):
        indexing.summary()


def test_ctrl_c_ends_the_indexing_of_a_bucket(remote: bucket.Bucket, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    remote.answers.clear()
    try:
        signal.setitimer(signal.ITIMER_REAL, 1)
        with pytest.raises(KeyboardInterrupt):
            loader("s3://b/train", index_dir=tmp_path / "index")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    (parts,) = (tmp_path / "index").iterdir()
    assert not any(file.name.startswith("shard-") for file in parts.iterdir())
    # Nothing holds a lock.
    remote.answers.set()
    with loader("s3://b/train", index_dir=tmp_path / "index") as small:
        assert len(small) == 8


def test_a_mapping_is_one_dataset_that_is_mixed(
    data: Path, tmp_path: Path, servers: Callable[..., Server]
) -> None:
    for name in ("train", "val"):
        shutil.copytree(data / name, tmp_path / name)
    mix = {tmp_path / "train": 1, tmp_path / "val": 0.5}
    server = servers("--dataset", f"mix={data / 'train'},{data / 'val'}:0.5")
    expected = epoch(server.endpoint, dataset="mix", threads=None)
    assert epoch(mix) == expected
    assert (tmp_path / "train.forebay").exists() and (tmp_path / "val.forebay").exists()
    with loader(mix) as small, loader({path: 1 for path in mix}) as other:
        assert small.describe()["records"] == 148
        assert small.describe()["dataset_digest"] != other.describe()["dataset_digest"]
    with pytest.raises(forebay.OptionsError, match=f"the source is a mix, '{tmp_path}/train', '{tmp_path}/val', which is"):
        loader(mix, dataset="mix")


def test_a_mix_of_something_else_is_refused(tmp_path: Path) -> None:
    weight = "expected a number above 0 and at most 1000000"
    path = str(tmp_path)
    cases: list[tuple[dict[Any, Any], str]] = [
        ({}, "invalid source {}: expected paths with their weights"),
        ({"http://data-0:50051": 1}, "invalid source: 'http://data-0:50051' is an endpoint, and only datasets are mixed"),
        ({path: 1, "data-0:50051": 1}, "invalid source: 'data-0:50051' is an endpoint"),
        ({5: 1}, "invalid source 5: expected a path"),
        *(({path: wrong}, f"invalid weight of {path} {wrong!r}: {weight}") for wrong in (0, -1, 1e7, "1", True, None)),
        ({path: float("nan")}, f"invalid weight of {path} nan: {weight}"),
    ]
    for source, says in cases:
        with pytest.raises(forebay.OptionsError) as refused:
            loader(source)
        assert str(refused.value).startswith(says)


def test_a_split_of_a_folder_is_selected(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("train", "val"):
        shutil.copytree(data / name, root / name)
    expected = epoch(data / "val")
    assert epoch(root, split="val") == epoch(f"{root}#val") == epoch({root: 1}, split="validation") == expected
    with pytest.raises(forebay.DatasetError, match=f'several splits: train, val; select one, by split="train" or by {root}#train'):
        loader(root)
    with pytest.raises(forebay.DatasetError, match='no split "test"; it has train, val'):
        loader(root, split="test")
    with pytest.raises(forebay.OptionsError, match=f"invalid split 'train': the source '{root}#val' selects one already"):
        loader(f"{root}#val", split="train")
    with pytest.raises(forebay.DatasetError, match=f"no dataset at {tmp_path}/none: no such file"):
        loader(f"{tmp_path}/none#val")


NAMES = ["a,b", "k=v", "a:2", "x:0.5", "t-{0,1}", "t{", "[x]*?", "a#val", 'q"\\', " a b ", "ü😀", "line\nbreak\x7f", "s3:", "#"]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_may_have_any_name(data: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(data / "val", tmp_path / name)
    assert epoch(tmp_path / name) == epoch(data / "val")
    (tmp_path / "root").mkdir()
    shutil.move(tmp_path / name, tmp_path / "root" / name)
    assert epoch({tmp_path / "root" / name: 1, data / "val": 1}) == epoch({data / "val": 1, str(data) + "/./val": 1})


def test_a_path_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    with pytest.raises(forebay.DatasetError, match="is not UTF-8: rename it"):
        loader(os.fsdecode(folder))


def test_a_source_that_is_nearly_a_url_is_refused(tmp_path: Path) -> None:
    for source, says in [
        (Path("s3://b/train"), "expected a URL as a string"),
        ("gcs://b/train", "unknown scheme gcs://: expected s3://, gs://, az://"),
        (["s3://b/train"], "'s3://b/train' is a URL: pass one URL alone, or several in a mapping"),
    ]:
        with pytest.raises(forebay.OptionsError, match=says):
            loader(source)


def test_a_disk_cache_without_a_bucket_is_refused(data: Path) -> None:
    with pytest.raises(forebay.OptionsError, match="invalid disk_cache '/c': it is for datasets in buckets"):
        loader(data / "train", disk_cache="/c")
    with pytest.raises(forebay.OptionsError, match="invalid disk_cache_bytes 5: it is the size of disk_cache"):
        loader("s3://b/train", disk_cache_bytes=5)
    with pytest.raises(forebay.OptionsError, match='disk_cache_bytes: .*"5 bytes".*expected a number of bytes'):
        loader("s3://b/train", disk_cache="/c", disk_cache_bytes="5 bytes")
