"""The loader: batches of a rank, epoch by epoch, from servers or from a dataset."""

from __future__ import annotations

import html
import numbers
import os
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Never, NoReturn, TypedDict

from . import _arguments, _forebay, _toml
from ._batch import Batch, Context, Parts
from ._errors import Error, OptionsError, StateError
from ._local import Address, LocalServer
from ._log import warn
from ._source import Part, Source, endpoints_of, parts_of
from ._types import Description, Job, ServerStats, Settings

if TYPE_CHECKING:
    from PIL.Image import Image

Changes = Mapping[str, object] | Sequence[str]
"""Changes to a recipe: `{"batch": 512, "crop.scale": [0.35, 1.0]}`, or TOML assignments."""

# What the arguments of a loader are, but for `source` and `set`. None is allowed where it is the default.
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "recipe": _arguments.recipe,
    "dataset": _arguments.text,
    "seed": _arguments.integer,
    "epoch": _arguments.integer,
    "rank": _arguments.small,
    "world": _arguments.small,
    "dtype": lambda name, value: _arguments.text(name, value, '"u8", "f16", "bf16" or "f32"'),
    "layout": lambda name, value: _arguments.text(name, value, '"nhwc" or "nchw"'),
    "mixed_by": lambda name, value: _arguments.text(name, value, '"server" or "trainer"'),
    "merge": _arguments.flag,
    "writable": _arguments.flag,
    "split": _arguments.split,
    "index_dir": _arguments.path,
    "threads": _arguments.positive,
    "memory": _arguments.size,
    "disk_cache": _arguments.path,
    "disk_cache_bytes": _arguments.size,
    "progress": _arguments.flag,
    "prefetch_bytes": _arguments.integer,
    "max_microbatch_bytes": _arguments.integer,
    "connections": _arguments.integer,
    "shared_memory": lambda name, value: _arguments.text(name, value, '"verify", "trust" or "off"'),
    "resolve_interval": _arguments.seconds,
    "readmit_after": _arguments.seconds,
    "connect_timeout": _arguments.seconds,
    "keepalive_timeout": _arguments.seconds,
    "idle_timeout": _arguments.seconds,
    "microbatch_timeout": _arguments.seconds,
    "give_up_after": _arguments.seconds,
    "initial_backoff": _arguments.seconds,
    "max_backoff": _arguments.seconds,
    "hedge_quantile": _arguments.number,
    "hedge_budget": _arguments.number,
    "hedge_min_delay": _arguments.seconds,
    "tls_ca": _arguments.path,
    "tls_cert": _arguments.path,
    "tls_key": _arguments.path,
    "tls_name": _arguments.text,
    "token_file": _arguments.path,
}
_NOT_NONE = {"recipe", "seed", "epoch", "dtype", "layout", "mixed_by", "merge", "writable", "progress"}
# What only the server of a path or URL has, and what only servers that were named have: a loader finds that of a path by
# itself, it is one, and it has a token that its loaders know.
_OF_PATHS = ("split", "index_dir", "threads", "memory", "disk_cache", "disk_cache_bytes")
_OF_SERVERS = (
    "dataset", "resolve_interval", "readmit_after", "hedge_quantile", "hedge_budget", "hedge_min_delay",
    "tls_ca", "tls_cert", "tls_key", "tls_name", "token_file",
)  # fmt: skip

# Seconds without a microbatch after which a loader looks whether the server of its path still runs.
_PATIENCE = 1.0


class State(TypedDict):
    """Where a loader is: what `state_dict` returns. It can be written as JSON."""

    version: int
    dataset_digest: str
    recipe_digest: str
    seed: int
    epoch: int
    step: int
    microbatches: int
    """How many of the rank's microbatches of the step were yielded."""
    world: int


class Stats(TypedDict):
    """What a loader has done since it was made."""

    batches: int
    microbatches: int
    shared_microbatches: int
    """Microbatches that were received in the memory of a server on this host."""
    images: int
    bytes: int
    wait_seconds: float
    """Time in which the trainer waited for batches."""
    server_seconds: dict[str, float]
    """Time that servers spent: `queue` and `make` of wall time, then CPU time by stage."""
    servers: list[ServerStats]


@dataclass
class _Position:
    epoch: int
    step: int = 0
    done: int = 0


class Loader:
    """Loads batches from a dataset, on this machine or in a bucket, or from servers.

    >>> import forebay
    >>> loader = forebay.Loader(data / "train", recipe="a3", set={"batch": 32, "microbatches": 2})
    >>> len(loader)
    4
    >>> for batch in loader:
    ...     assert batch.pixels.shape == (32, 160, 160, 3)
    >>> loader.state_dict()["epoch"]
    1
    >>> loader.close()

    A pass over the loader is an epoch, and the next pass is the next epoch. After `load_state_dict`, the pass
    continues where the state was taken. A pass that was left early is not continued: the next pass is the
    next epoch, or that of `set_epoch`.

    Args:
        source: A dataset as `forebay index` takes it, a path or a URL such as `s3://bucket/train`: it is indexed
            if it has no index, and served by a process that all loaders of this host and user share, and that
            ends with the last of them. A mapping of paths and URLs to weights is one dataset that is mixed of
            them: with `{"/data/a": 1, "/data/b": 0.5}`, an epoch has half of the records of the second. Or
            servers: an endpoint such as `http://data-0:50051`, a list of them, or `dns+http://name:port` for
            all addresses of a name.
        recipe: A preset (`a1`, `a2`, `a3`, `eval`), a recipe that the servers have, or the path of a TOML file.
        set: Changes to the recipe.
        dataset: Name of the dataset on the servers; not needed if they have only one.
        seed: Seed of every random choice.
        epoch: Epoch of the first pass.
        rank, world: Number of this process, and of all; the world must divide the recipe's microbatches.
        dtype: `u8`, or normalized `f16`, `bf16` or `f32`.
        layout: `nhwc`, which torch calls channels_last, or `nchw`.
        mixed_by: The side that applies MixUp and CutMix: `server`, or `trainer`, which then gets the plan.
        merge: Whether a batch is all of a rank's microbatches of a step, or each by itself.
        writable: Whether pixels may be changed in place. Those in the memory of a server on this host are copied then.
        split: For a path or URL with several splits: the one to load, such as `val`.
        index_dir: For a path or URL: folder of the index, if it cannot be beside the dataset.
        threads, memory: For a path or URL: worker threads and memory (`"4GiB"`) of the server.
        disk_cache, disk_cache_bytes: For a URL: folder on a local disk that keeps what was fetched, for all processes
            of the host, and its size (`"200GiB"`).
        progress: For a path or URL: whether a progress bar is shown while it is indexed, if tqdm is installed.
        prefetch_bytes: Pixels that are received ahead. By default 128 MiB, or more for several servers.

    The other arguments are those of the flags of `forebay-trainer` with the same names; times are in
    seconds. A loader may be used by one thread at a time, and in the process that made it.

    Raises:
        OptionsError: If an argument is invalid.
        DatasetError: If there is no dataset at the path or URL.
        RefusedError: If a server refuses the job; NoServerError, if several do.
        GaveUpError: If no server answers within `give_up_after`.
    """

    def __init__(
        self,
        source: Source,
        *,
        recipe: str | os.PathLike[str] = "a2",
        set: Changes | None = None,
        dataset: str | None = None,
        seed: int = 0,
        epoch: int = 0,
        rank: int | None = None,
        world: int | None = None,
        dtype: Literal["u8", "f16", "bf16", "f32"] = "u8",
        layout: Literal["nhwc", "nchw"] = "nhwc",
        mixed_by: Literal["server", "trainer"] = "server",
        merge: bool = True,
        writable: bool = False,
        split: str | None = None,
        index_dir: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        memory: str | int | None = None,
        disk_cache: str | os.PathLike[str] | None = None,
        disk_cache_bytes: str | int | None = None,
        progress: bool = True,
        prefetch_bytes: int | None = None,
        max_microbatch_bytes: int | None = None,
        connections: int | None = None,
        shared_memory: Literal["verify", "trust", "off"] | None = None,
        resolve_interval: float | None = None,
        readmit_after: float | None = None,
        connect_timeout: float | None = None,
        keepalive_timeout: float | None = None,
        idle_timeout: float | None = None,
        microbatch_timeout: float | None = None,
        give_up_after: float | None = None,
        initial_backoff: float | None = None,
        max_backoff: float | None = None,
        hedge_quantile: float | None = None,
        hedge_budget: float | None = None,
        hedge_min_delay: float | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        tls_name: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        **unknown: Never,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "unknown")}
        for name in unknown:
            raise _arguments.unknown(name, arguments)
        # What `__reduce__` makes a loader of in another process.
        self._arguments: dict[str, Any] = arguments
        self._local: LocalServer | None = None
        # The passes that are under way. The state of the loader is that of the one that began last.
        self._iterators: weakref.WeakSet[_Iterator] = weakref.WeakSet()
        self._current: weakref.ref[_Iterator] | None = None
        self._closed = False
        given: dict[str, Any] = {
            name: check(name, arguments[name]) if name in _NOT_NONE or arguments[name] is not None else None
            for name, check in _CHECKS.items()
        }
        if (given["rank"] is None) != (given["world"] is None):
            raise OptionsError("rank and world belong together: expected both, or neither")
        endpoints = endpoints_of(source)
        parts = parts_of(source, given["split"]) if endpoints is None else []
        _refuse_others(arguments, parts)
        is_alone = given["rank"] is None
        self._rank: int = 0 if is_alone else given["rank"]
        self._world: int = 1 if is_alone else given["world"]
        self._merge, self._writable, self._layout = given["merge"], given["writable"], given["layout"]
        self._settings: Settings = {
            "endpoints": endpoints or [],
            "dtype": given["dtype"],
            "layout": given["layout"],
            "mixed_by": given["mixed_by"],
            "prefetch_bytes": given["prefetch_bytes"],
            "max_microbatch_bytes": given["max_microbatch_bytes"],
            "connections": given["connections"],
            "shared_memory": given["shared_memory"],
            "resolve_interval": given["resolve_interval"],
            "readmit_after": given["readmit_after"],
            "connect_timeout": given["connect_timeout"],
            "keepalive_timeout": given["keepalive_timeout"],
            "idle_timeout": given["idle_timeout"],
            "microbatch_timeout": given["microbatch_timeout"],
            "give_up_after": given["give_up_after"],
            "initial_backoff": given["initial_backoff"],
            "max_backoff": given["max_backoff"],
            "hedge_quantile": given["hedge_quantile"],
            "hedge_budget": given["hedge_budget"],
            "hedge_min_delay": given["hedge_min_delay"],
            "tls_ca": given["tls_ca"],
            "tls_cert": given["tls_cert"],
            "tls_key": given["tls_key"],
            "tls_name": given["tls_name"],
            "token_file": given["token_file"],
        }
        self._job: Job = {
            "dataset": given["dataset"] or "",
            "recipe": given["recipe"],
            "set": assignments(set),
            "seed": given["seed"],
            "dataset_digest": None,
            "recipe_digest": None,
        }
        # The next batch to yield. While `_is_fresh`, the next pass starts there.
        self._next, self._is_fresh = _Position(given["epoch"]), True
        # The epoch of the last pass that began.
        self._epoch: int = given["epoch"]
        self._batches, self._microbatches, self._shared = 0, 0, 0
        self._images, self._bytes, self._wait = 0, 0, 0.0
        self._server_seconds: dict[str, float] = {}

        if parts:
            self._local = LocalServer(
                parts,
                index_dir=given["index_dir"],
                threads=given["threads"],
                memory=given["memory"],
                disk_cache=given["disk_cache"],
                disk_cache_bytes=given["disk_cache_bytes"],
                progress=given["progress"],
            )
            self._job["dataset"] = self._local.dataset
        try:
            self._client = self._connect()
            self._description = self._client.describe(self._job)
            self._indices = _indices(self._rank, self._world, self._description["microbatches"])
        except BaseException:
            self.close()
            raise
        # From now on, servers with other data are excluded.
        self._job["dataset_digest"] = self._description["dataset_digest"]
        self._job["recipe_digest"] = self._description["recipe_digest"]
        self._each = [self._indices_of(step) for step in self._last_steps()]

    # The pass.

    def __iter__(self) -> Iterator[Batch]:
        self._check_open()
        return _Iterator(self)

    def __getitem__(self, index: object) -> NoReturn:
        """Refused: batches come in order."""
        not_indexed(self)

    def __len__(self) -> int:
        """Batches of an epoch: its steps, or with `merge=False` the rank's microbatches."""
        steps = self._description["steps_per_epoch"]
        # Only the last step of an evaluation can have fewer microbatches than the others.
        counts = [len(indices) for indices in self._each]
        if self._merge:
            counts = [min(count, 1) for count in counts]
        return sum(counts) if steps <= len(counts) else counts[0] * (steps - 1) + counts[-1]

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass that of an epoch.

        A position of `load_state_dict` in that epoch is kept.
        """
        epoch = _arguments.integer("epoch", epoch)
        if not (self._is_fresh and self._next.epoch == epoch):
            self._next, self._is_fresh = _Position(epoch), True

    # State.

    def state_dict(self) -> State:
        """What was yielded so far, to go on there with `load_state_dict`.

        What was received ahead does not count.
        """
        at = self._next
        return {
            "version": 1,
            "dataset_digest": self._description["dataset_digest"],
            "recipe_digest": self._description["recipe_digest"],
            "seed": self._job["seed"],
            "epoch": at.epoch,
            "step": at.step,
            "microbatches": at.done,
            "world": self._world,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next pass continue where a state was taken, with the seed of the state.

        Raises:
            StateError: If the state is of another dataset or recipe, or is none.
        """
        try:
            version, seed, world = state["version"], int(state["seed"]), int(state["world"])
            at = _Position(int(state["epoch"]), int(state["step"]), int(state["microbatches"]))
            digests = {what: str(state[f"{what}_digest"]) for what in ("dataset", "recipe")}
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(
                f"invalid state {state!r}: {error!r}; expected what state_dict returned"
            ) from error
        if version != 1:
            raise StateError(f"invalid state: version {version!r}, expected 1; use the forebay that wrote it")
        for what, found in digests.items():
            expected = self._job["dataset_digest" if what == "dataset" else "recipe_digest"]
            if found != expected:
                raise StateError(
                    f"the state belongs to another {what}: its digest is {found}, and that of this loader "
                    f"is {expected}; use the same {what}, or start without the state"
                )
        steps = self._description["steps_per_epoch"]
        if at.epoch < 0 or at.step < 0 or at.step >= max(steps, 1):
            raise StateError(f"invalid state: step {at.step} of an epoch of {steps} steps")
        if at.done and world != self._world:
            raise StateError(
                f"the state is within step {at.step}, of which each of {world} processes has yielded "
                f"{at.done} microbatches, and the world is now {self._world}: resume with a world of "
                f"{world}, or from a state between two steps"
            )
        if not 0 <= at.done <= len(self._indices):
            raise StateError(f"invalid state: {at.done} microbatches of a step that has {len(self._indices)}")
        # Batches that were yielded keep their job, which explains them.
        self._job = self._job.copy()
        self._job["seed"] = seed
        self._next, self._is_fresh = at, True

    # What it knows.

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by label."""
        return list(self._description["classes"])

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of R, G and B, from 0 to 1, by which normalized dtypes are normalized."""
        return self._description["mean"]

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of R, G and B, as `mean`."""
        return self._description["std"]

    @property
    def epoch(self) -> int:
        """Epoch of the next batch."""
        return self._next.epoch

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self._rank

    @property
    def world(self) -> int:
        """Number of processes."""
        return self._world

    @property
    def images_per_batch(self) -> int:
        """Images of a batch, except for the last ones of an evaluation."""
        each = self._description["batch"] // self._description["microbatches"]
        return each * (len(self._indices) if self._merge else 1)

    def describe(self) -> Description:
        """Sizes, digests and names of the dataset with the recipe."""
        return self._description.copy()

    def changed(self, set: Changes) -> Loader:
        """Another loader, which differs by further changes to the recipe. It starts at this one's first epoch."""
        arguments: dict[str, Any] = {**self._arguments, "set": [*assignments(self._arguments["set"]), *assignments(set)]}
        source = arguments.pop("source")
        return Loader(source, **arguments)

    def follow(self, other: Loader) -> None:
        """Makes the next pass start at the epoch of another loader, with its seed."""
        self._job = self._job.copy()
        self._job["seed"] = other._job["seed"]
        self.set_epoch(other.epoch)

    def stats(self) -> Stats:
        """What was done so far, and what is known of each server."""
        return {
            "batches": self._batches,
            "microbatches": self._microbatches,
            "shared_microbatches": self._shared,
            "images": self._images,
            "bytes": self._bytes,
            "wait_seconds": self._wait,
            "server_seconds": dict(self._server_seconds),
            "servers": self._client.servers(),
        }

    def preview(self, limit: int = 16, columns: int = 8) -> Image:
        """The first images of the next batch in one, for Pillow, which must be installed.

        The position of the loader stays.
        """
        return self.peek().preview(limit, columns)

    def peek(self) -> Batch:
        """The next batch, as `u8`. The position of the loader stays.

        In a notebook, it is shown with pictures, operations and mix.
        """
        self._check_open()
        self._living_client()
        settings = self._settings.copy()
        settings["dtype"], settings["mixed_by"] = "u8", "server"
        stream = self._open(_forebay.Client(settings), self._start_of_pass(), steps=1)
        parts: Parts | None = None
        try:
            while (self._merge or parts is None) and (part := stream.take(writable=False)) is not None:
                if parts is None:
                    parts = Parts(len(self._indices) if self._merge else 1, writable=False)
                parts.add(part)
        finally:
            stream.close()
        if parts is None:
            raise Error("this rank has no images in the next step")
        return Batch(self._context(), parts, self._layout)

    def _repr_html_(self) -> str:
        return self._html(repr(self))

    def __repr__(self) -> str:
        return f"<forebay.Loader of {self._summary()}>"

    # Its life.

    def close(self) -> None:
        """Ends its passes, and gives back its share in the server of a path. Batches stay."""
        self._closed = True
        for iterator in list(self._iterators):
            iterator.cut()
        if self._local is not None:
            self._local.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._arguments, self.state_dict(), self._is_fresh)

    # Inside.

    def _summary(self) -> str:
        description = self._description
        return (
            f"{description['records']} records in {len(description['classes'])} classes: "
            f"{description['steps_per_epoch']} steps of {description['batch']} images, rank "
            f"{self._rank} of {self._world}"
        )

    def _html(self, text: str) -> str:
        """What a notebook shows: the text, and the next batch if there is one to see."""
        head = f"<p>{html.escape(text[1:-1])}</p>"
        try:
            return head + self.peek()._repr_html_()
        except Error as error:
            return f"{head}<p>No pictures: {html.escape(str(error))}</p>"

    def _check_open(self) -> None:
        if self._closed:
            raise Error("the loader is closed: make another one")

    def _connect(self) -> _forebay.Client:
        """A client of the servers, or of the server of a path."""
        if self._local is not None:
            address: Address = self._local.join()
            self._settings["endpoints"] = [address.endpoint]
            self._settings["token_file"] = address.token_file
        return _forebay.Client(self._settings)

    def _is_abandoned(self) -> bool:
        """Whether the server of the path was killed: it does not end by itself while it is in use."""
        return self._local is not None and not self._local.serves(self._settings["endpoints"][0])

    def _living_client(self) -> _forebay.Client:
        """The client, of another server if that of the path was killed."""
        if self._is_abandoned():
            assert self._local is not None
            warn(f"the server of {self._local.shown} was killed; another one is started")
            self._client = self._connect()
            self._client.describe(self._job)
        return self._client

    def _context(self) -> Context:
        explain = _Explain(self._client, None if self._local is None else weakref.ref(self))
        return Context(explain, self._job, self._description)

    def _open(
        self, client: _forebay.Client, at: _Position, steps: int | None = None
    ) -> _forebay.Stream:
        """A stream from a position to the end of its epoch, or of some steps."""
        if steps is None:
            steps = self._description["steps_per_epoch"] - at.step
        return client.stream(
            self._job,
            epoch=at.epoch,
            step=at.step,
            done=at.done,
            steps=steps,
            rank=self._rank,
            world=self._world,
        )

    def _start_of_pass(self) -> _Position:
        """Where the next pass starts."""
        at = self._next
        return _Position(at.epoch, at.step, at.done) if self._is_fresh else _Position(self._epoch + 1)

    def _begin(self) -> _Position:
        at = self._start_of_pass()
        self._epoch, self._next, self._is_fresh = at.epoch, at, False
        return _Position(at.epoch, at.step, at.done)

    def _last_steps(self) -> list[int]:
        """A full step and the last one; or those that there are."""
        steps = self._description["steps_per_epoch"]
        return [0, steps - 1] if steps > 2 else list(range(steps))

    def _indices_of(self, step: int) -> list[int]:
        """The rank's microbatches of a step: those that have samples."""
        description = self._description
        batch, groups = description["batch"], description["microbatches"]
        samples = min(description["samples_per_epoch"] - step * batch, batch)
        return [index for index in self._indices if index < min(samples, groups)]

    def _count(self, batch: Batch, microbatches: list[_forebay.Microbatch]) -> None:
        self._batches += 1
        self._microbatches += len(microbatches)
        self._shared += sum(microbatch.is_shared for microbatch in microbatches)
        self._images += len(batch)
        self._bytes += batch.pixels.nbytes
        self._wait += batch.wait
        for microbatch in microbatches:
            for stage, seconds in microbatch.timings.items():
                self._server_seconds[stage] = self._server_seconds.get(stage, 0.0) + seconds


class _Explain:
    """Asks servers for plans, or the server of a path, which lives as long as the loader has its share in it."""

    def __init__(self, client: _forebay.Client, loader_of_path: weakref.ref[Loader] | None) -> None:
        self._client, self._loader = client, loader_of_path

    def __call__(self, job: Job, epoch: int, step: int, index: int) -> str:
        reference = self._loader
        if reference is None:
            plan = self._client.explain(job, epoch, step, index, lambda: False)
            assert plan is not None
            return plan
        while True:
            loader = reference()
            if loader is None or loader._closed:
                raise Error(
                    "the loader of this batch is closed, and its server may have ended: explain batches before that"
                )
            plan = loader._living_client().explain(job, epoch, step, index, loader._is_abandoned)
            if plan is not None:
                return plan


class _Iterator(Iterator[Batch]):
    """A pass of a loader. It begins with its first batch, so that `set_epoch` may come after `iter`."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._stream: _forebay.Stream | None = None
        # That of the stream.
        self._client: _forebay.Client | None = None
        self._at: _Position | None = None
        # Microbatches of the current step that were received and not yielded.
        self._parts: Parts | None = None
        self._ended = False
        # Whether the loader was closed before the end.
        self._is_cut = False

    def __next__(self) -> Batch:
        loader = self._loader
        if self._ended and not self._is_cut:
            raise StopIteration
        loader._check_open()
        try:
            if self._at is None:
                self._begin()
            return self._batch()
        except StopIteration:
            self.close()
            raise
        except Exception:
            # The same batch can be tried again by a new pass.
            if self._is_current():
                loader._is_fresh = True
            self.close()
            raise
        except BaseException:
            # Ctrl-C may come between any two lines. What was received and not yielded is received again.
            self._parts = self._stream = None
            raise

    def cut(self) -> None:
        """Closes the pass early, so that asking for its next batch raises an error."""
        self._is_cut = True
        self.close()

    def close(self) -> None:
        self._ended = True
        self._parts = None
        if self._stream is not None:
            self._stream.close()
        self._loader._iterators.discard(self)

    def _begin(self) -> None:
        loader = self._loader
        loader._iterators.add(self)
        loader._current = weakref.ref(self)
        self._at = loader._begin()

    def _is_current(self) -> bool:
        current = self._loader._current
        return current is not None and current() is self

    def _batch(self) -> Batch:
        loader, at = self._loader, self._at
        assert at is not None
        while self._parts is None or len(self._parts) < self._wanted(at):
            # Several are copied when they are joined.
            microbatch = self._take(at, writable=loader._writable and self._wanted(at) == 1)
            if microbatch is None:
                self._end(at)
            # The rank has nothing in the steps before it.
            if (microbatch.epoch, microbatch.step) != (at.epoch, at.step):
                at.step, at.done = microbatch.step, 0
            if self._parts is None:
                self._parts = Parts(self._wanted(at), loader._writable)
            self._parts.add(microbatch)
        parts, self._parts = self._parts, None
        batch = Batch(loader._context(), parts, loader._layout)
        loader._count(batch, parts.microbatches)
        done = at.done + len(parts)
        is_complete = done == len(loader._indices_of(at.step))
        at.step, at.done = (at.step + 1, 0) if is_complete else (at.step, done)
        if self._is_current():
            is_over = at.step == loader._description["steps_per_epoch"]
            loader._next = _Position(at.epoch + 1) if is_over else _Position(at.epoch, at.step, at.done)
        return batch

    def _wanted(self, at: _Position) -> int:
        """How many microbatches the next batch has; none if the rank has none in the step."""
        left = len(self._loader._indices_of(at.step)) - at.done
        return left if self._loader._merge else min(left, 1)

    def _end(self, at: _Position) -> NoReturn:
        if self._is_current():
            self._loader._next, self._loader._is_fresh = _Position(at.epoch + 1), True
        raise StopIteration

    def _take(self, at: _Position, writable: bool) -> _forebay.Microbatch | None:
        """The next microbatch, also if the server of the path is killed."""
        loader = self._loader
        while at.step < loader._description["steps_per_epoch"]:
            if self._stream is None:
                received = 0 if self._parts is None else len(self._parts)
                position = _Position(at.epoch, at.step, at.done + received)
                self._client = loader._living_client()
                self._stream = loader._open(self._client, position)
            is_ready = self._stream.wait(_PATIENCE)
            if not is_ready and not self._is_abandoned():
                continue
            try:
                if is_ready:
                    return self._stream.take(writable)
            except Error:
                if not self._is_abandoned():
                    raise
            self._stream.close()
            self._stream = None
        return None

    def _is_abandoned(self) -> bool:
        """Whether the server of the path was killed, and maybe already replaced by another user of the loader."""
        return self._client is not self._loader._client or self._loader._is_abandoned()


def not_indexed(loader: object) -> NoReturn:
    """The error of those who take a loader for a dataset, such as `torch.utils.data.DataLoader`."""
    raise TypeError(
        f"{loader!r} has no items by number: iterate over it. It makes batches already, so that torch.utils.data.DataLoader "
        "has nothing to do: use forebay.torch.Loader in its place"
    )


def _restored(arguments: dict[str, Any], state: State, is_fresh: bool) -> Loader:
    """A copy of a loader in another process, for `pickle`."""
    source = arguments["source"]
    loader = Loader(source, **{name: value for name, value in arguments.items() if name != "source"})
    loader.load_state_dict(state)
    if not is_fresh:
        loader._is_fresh, loader._epoch = False, state["epoch"]
    return loader


def _refuse_others(arguments: Mapping[str, Any], parts: Sequence[Part]) -> None:
    """Refuses settings that the source does not have. Without parts, it is servers."""
    for name in _OF_SERVERS if parts else _OF_PATHS:
        if arguments[name] is None:
            continue
        refused = f"invalid {name} {arguments[name]!r}"
        if not parts:
            what = "the datasets of a server are named by dataset" if name == "split" else "only a path has a server to set up"
            raise OptionsError(f"{refused}: {what}")
        why = "which is one dataset" if name == "dataset" else "whose server a loader starts and reaches by itself"
        kind = "a mix" if len(parts) > 1 else "a URL" if parts[0].is_url else "a path"
        shown = ", ".join(repr(part.path) for part in parts)
        raise OptionsError(f"{refused}: the source is {kind}, {shown}, {why}; leave it out")
    if not parts:
        return
    if arguments["disk_cache"] is not None and not any(part.is_url for part in parts):
        raise OptionsError(
            f"invalid disk_cache {arguments['disk_cache']!r}: it is for datasets in buckets, and those of the source are on "
            "disk; leave it out"
        )
    if arguments["disk_cache_bytes"] is not None and arguments["disk_cache"] is None:
        raise OptionsError(
            f"invalid disk_cache_bytes {arguments['disk_cache_bytes']!r}: it is the size of disk_cache, which is not set"
        )


def _indices(rank: int, world: int, microbatches: int) -> list[int]:
    if not 0 <= rank < world:
        raise OptionsError(f"invalid rank {rank} for a world of {world}: expected a rank from 0 to world - 1")
    if microbatches % world:
        raise OptionsError(
            f"a world of {world} does not divide the {microbatches} microbatches of a step: choose a "
            "world that does, or change the recipe's microbatches"
        )
    return list(range(rank, microbatches, world))


def assignments(changes: Changes | None) -> list[str]:
    """Changes as TOML assignments.

    >>> assignments({"batch": 512, "crop.scale": [0.35, 1], "mix.mode": "elem"})
    ['batch = 512', 'crop.scale = [0.35, 1]', 'mix.mode = "elem"']
    >>> assignments({"sampling.weights": {"cat": 2, "tench, Tinca tinca": 0.5}})
    ['sampling.weights = { cat = 2, "tench, Tinca tinca" = 0.5 }']
    """
    if changes is None:
        return []
    if isinstance(changes, str):
        return [changes]
    # Whatever the types say.
    fields: list[Any] = list(changes) if isinstance(changes, Mapping | list | tuple) else [None]
    if all(isinstance(field, str) for field in fields):
        if not isinstance(changes, Mapping):
            return fields
        return [f"{field} = {_written(field, value)}" for field, value in changes.items()]
    raise _arguments.invalid(
        "set", changes, 'a mapping, such as {"batch": 512}, or a list of TOML assignments, such as ["batch = 512"]'
    )


def _key(key: object) -> str:
    name = str(key)
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else _toml.string(name)


def _written(field: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # Those of numpy are not written as TOML has them.
    if isinstance(value, numbers.Integral):
        return repr(int(value))
    if isinstance(value, numbers.Real):
        return repr(float(value))
    if isinstance(value, str):
        return _toml.string(value)
    if isinstance(value, Mapping):
        # Keys are fields or names of classes, which may have any character.
        inner = ", ".join(f"{_key(key)} = {_written(field, inner)}" for key, inner in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_written(field, inner) for inner in value)}]"
    raise OptionsError(
        f"invalid value {value!r} of {field}: expected a number, a string, a boolean, a list or a mapping"
    )
