"""Tensors: their bits, targets, device and state."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import forebay
from conftest import SMALL, Server

torch = pytest.importorskip("torch")
import forebay.torch as ft  # noqa: E402

MIXED: dict[str, object] = {**SMALL, "repeats": 1}


def loader(server: Server, **options: Any) -> ft.Loader:
    options = {"dataset": "train", "set": MIXED, **options}
    return ft.Loader(server.endpoint, **options)


def test_images_are_channels_last_without_a_copy(server: Server) -> None:
    with loader(server, dtype=torch.uint8) as small:
        core = next(iter(small.loader))
        images, targets = small._placed(core)
        assert images.shape == (16, 3, 64, 64) and images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.data_ptr() == core.pixels.__array_interface__["data"][0]
        assert targets.shape == (16, 4) and targets.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_device_and_server_normalize_to_the_same_bits(server: Server, dtype: Any, layout: Any) -> None:
    options: dict[str, Any] = {"dtype": dtype, "layout": layout}
    with loader(server, **options) as here, loader(server, normalized_by="server", **options) as there:
        for (one, _), (two, _) in zip(here, there, strict=True):
            assert one.dtype == two.dtype == dtype
            assert one.stride() == two.stride()
            assert torch.equal(one, two)


def test_normalization_is_torchvisions_but_for_the_last_bits(server: Server) -> None:
    transforms = pytest.importorskip("torchvision.transforms.functional")
    with loader(server) as normalized, loader(server, dtype=torch.uint8) as plain:
        (one, _), (two, _) = next(iter(normalized)), next(iter(plain))
        expected = transforms.normalize(two.float().div(255), normalized.loader.mean, normalized.loader.std)
        assert torch.allclose(one, expected, atol=1e-5)


def test_targets_have_three_forms(server: Server) -> None:
    with loader(server) as dense, loader(server, targets="sparse") as sparse:
        for (_, whole), (_, (a, b, lam)) in zip(dense, sparse, strict=True):
            rows = torch.zeros(16, 4)
            rows[torch.arange(16), a] += lam
            rows[torch.arange(16), b] += 1 - lam
            assert torch.allclose(whole, rows)
            assert (a.dtype, b.dtype, lam.dtype) == (torch.int64, torch.int64, torch.float32)
    with loader(server, targets="index") as index, pytest.raises(forebay.OptionsError, match="mix.mixup"):
        list(index)
    with loader(server, recipe="eval", dataset="val", set=SMALL, targets="index") as evaluation:
        labels = torch.cat([labels for _, labels in evaluation])
        assert sorted(labels.tolist()) == [label for label in range(4) for _ in range(5)]


def test_wrong_arguments_are_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[str, Any, str]] = [
        ("dtype", torch.int32, "expected one of torch.uint8"),
        ("dtype", "float32", "expected one of torch.uint8"),
        ("dtype", [], "expected one of torch.uint8"),
        ("targets", "both", 'expected "dense", "sparse" or "index"'),
        ("targets", [], 'expected "dense", "sparse" or "index"'),
        ("normalized_by", "me", 'expected "device" or "server"'),
        ("device", "gpu", "expected a torch.device"),
        ("device", [], "expected a torch.device"),
        ("layout", 1, 'expected "nhwc"'),
        ("num_classes", "4", "expected an integer"),
        ("smoothing", "0.1", "expected a number"),
        ("seed", "1", "expected an integer"),
    ]
    for name, value, says in cases:
        with pytest.raises(forebay.OptionsError, match=f"^invalid {name} .*: {says}") as raised:
            loader(server, **{name: value})
        assert repr(value) in str(raised.value)
    monkeypatch.setenv("RANK", "first")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(forebay.OptionsError, match="^invalid environment variable RANK 'first': expected a number"):
        loader(server)


def test_it_shows_itself_as_the_loader_of_arrays_does(server: Server) -> None:
    with loader(server) as small:
        rest = repr(small.loader).removeprefix("<forebay.Loader")
        assert repr(small) == f"<forebay.torch.Loader{rest}"
        assert "data:image/png" in small._repr_html_() and html.escape(repr(small)[1:-1]) in small._repr_html_()


def test_torchs_loader_is_told_that_it_is_replaced(server: Server) -> None:
    with loader(server) as small, loader(server).loader as plain:
        for dataset in (small, plain):
            for options in ({}, {"batch_size": None}, {"shuffle": True}, {"num_workers": 1}):
                with pytest.raises(TypeError, match="forebay.torch.Loader in its place"):
                    next(iter(torch.utils.data.DataLoader(dataset, **options)))
        assert len(list(small)) == len(list(plain)) == 8


def test_rank_and_world_are_those_of_torchrun(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with loader(server) as shared, loader(server, rank=0, world=1) as single:
        assert (shared.loader.rank, shared.loader.world, shared.batch_size) == (1, 2, 8)
        assert (single.loader.rank, single.loader.world) == (0, 1)


def test_it_has_what_trainers_look_for(server: Server) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    with loader(server) as small:
        assert isinstance(small, stateful.Stateful)
        assert small.sampler.set_epoch(2) is small
        assert small.batch_sampler is None
        assert (len(small.dataset), len(small), small.batch_size) == (128, 8, 16)
        assert small.loader.epoch == 2


@pytest.mark.parametrize("over", ["server", "local_server"], ids=["frames", "shared"])
def test_torchdatas_loader_saves_and_loads_the_position(request: pytest.FixtureRequest, over: str) -> None:
    server = request.getfixturevalue(over)
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    class Images(torch.utils.data.IterableDataset):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.loader = loader(server, set={**MIXED, "batch": 32}, recipe="a2")

        def __iter__(self) -> Iterator[Any]:
            return iter(self.loader)

        def state_dict(self) -> Any:
            return self.loader.state_dict()

        def load_state_dict(self, state: Any) -> None:
            self.loader.load_state_dict(state)

    def wrapped() -> Any:
        return stateful.StatefulDataLoader(Images(), batch_size=None)

    expected = [images for images, _ in wrapped()]
    first = wrapped()
    batches = iter(first)
    found = [next(batches)[0] for _ in range(2)]
    state = first.state_dict()
    second = wrapped()
    second.load_state_dict(state)
    found += [images for images, _ in second]
    assert len(found) == 4
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


class FakeCuda:
    """A GPU whose copies end when something waits for them, or when the memory they read changes too early."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.waited = 0

    class Stream:
        def __init__(self, device: Any) -> None:
            self.device = device

        def wait_event(self, event: Any) -> None:
            event.cuda.waited += 1

    def Event(self) -> Any:  # noqa: N802
        cuda = self

        class Event:
            def __init__(self) -> None:
                self.cuda = cuda

            def record(self, stream: Any) -> None:
                cuda.log.append("record")

            def synchronize(self) -> None:
                cuda.log.append("synchronize")

        return Event()

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        yield

    def current_stream(self, device: Any) -> Any:
        return self.Stream(device)

    def is_available(self) -> bool:
        return False


def test_copies_ahead_yield_all_batches_with_the_state_of_what_was_yielded(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    with loader(server) as plain, loader(server) as copied:
        cuda = FakeCuda()
        ahead = ft._CopiedAhead(copied, iter(copied.loader), cuda)
        for (one, a), (two, b) in zip(plain, ahead, strict=True):
            assert torch.equal(one, two) and torch.equal(a, b)
            assert plain.state_dict() == copied.state_dict()
        assert copied.state_dict()["epoch"] == 1
        assert cuda.waited == 8
        # The two pieces of page-locked memory are used again only after the copies from them.
        assert cuda.log == ["record", "record"] + ["synchronize", "record"] * 6


def test_threads_of_a_forked_worker_are_told(server: Server) -> None:
    data_loader = torch.utils.data.DataLoader

    class Images(torch.utils.data.IterableDataset):  # type: ignore[misc,name-defined]
        def __init__(self, small: ft.Loader) -> None:
            self.small = small

        def __iter__(self) -> Iterator[Any]:
            return iter(self.small)

    with loader(server) as small, pytest.raises(RuntimeError, match="spawn"):
        list(data_loader(Images(small), batch_size=None, num_workers=1, multiprocessing_context="fork"))


def test_images_of_a_loader_that_is_gone_stay(servers: Callable[..., Server]) -> None:
    server = servers()
    with loader(server, dtype=torch.uint8) as small:
        images, _ = next(iter(small))
        content = images.clone()
    server.kill()
    images += 1
    assert torch.equal(images, content + 1)


def test_arguments_that_cannot_be_are_refused(server: Server) -> None:
    for options, expected in [
        ({"writable": True}, "invalid writable"),
        ({"dtype": torch.int8}, "invalid dtype torch.int8"),
        ({} if torch.cuda.is_available() else {"device": "cuda"}, "torch finds no GPU"),
    ]:
        if options:
            with pytest.raises(forebay.OptionsError, match=expected):
                ft.Loader(server.endpoint, dataset="train", **options)
