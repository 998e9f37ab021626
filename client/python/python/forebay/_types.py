"""Dictionaries that the native part takes and returns."""

from __future__ import annotations

from typing import TypedDict


class Settings(TypedDict):
    """Settings of a client; None stands for the default."""

    endpoints: list[str]
    dtype: str
    layout: str
    mixed_by: str
    prefetch_bytes: int | None
    max_microbatch_bytes: int | None
    connections: int | None
    shared_memory: str | None
    resolve_interval: float | None
    readmit_after: float | None
    connect_timeout: float | None
    keepalive_timeout: float | None
    idle_timeout: float | None
    microbatch_timeout: float | None
    give_up_after: float | None
    initial_backoff: float | None
    max_backoff: float | None
    hedge_quantile: float | None
    hedge_budget: float | None
    hedge_min_delay: float | None
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    tls_name: str | None
    token_file: str | None


class Job(TypedDict):
    """A dataset, a recipe and a seed."""

    dataset: str
    recipe: str
    set: list[str]
    seed: int
    dataset_digest: str | None
    recipe_digest: str | None


class Description(TypedDict):
    """Sizes, digests and names of a dataset with a recipe."""

    server_version: str
    dataset_digest: str
    records: int
    bad_records: int
    classes: list[str]
    recipe_digest: str
    recipe: str
    samples_per_epoch: int
    steps_per_epoch: int
    batch: int
    microbatches: int
    image_size: int
    image_sizes: list[tuple[int, int]]
    smoothing: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    datasets: list[str]
    weighted: bool


class ServerStats(TypedDict):
    """A server as the client sees it."""

    name: str
    present: bool
    circuit: str
    excluded: str | None
    steps: int
    microbatches: int
    bytes: int
    failures: int
    hedges_sent: int
    hedges_won: int
    overtaken: int
    wasted_bytes: int


class Summary(TypedDict):
    """What was indexed."""

    records: int
    bad: int
    digest: str
