"""What the loaders for other libraries have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from ._loader import Loader, State, Stats
from ._types import Description


class Wrapped:
    """A loader that gives the batches of a `forebay.Loader`, its attribute `loader`, in another form."""

    loader: Loader

    def __len__(self) -> int:
        return len(self.loader)

    def set_epoch(self, epoch: int) -> Self:
        """As `forebay.Loader.set_epoch`."""
        self.loader.set_epoch(epoch)
        return self

    def state_dict(self) -> State:
        """As `forebay.Loader.state_dict`."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `forebay.Loader.load_state_dict`."""
        self.loader.load_state_dict(state)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by label."""
        return self.loader.classes

    def stats(self) -> Stats:
        """As `forebay.Loader.stats`."""
        return self.loader.stats()

    def describe(self) -> Description:
        """As `forebay.Loader.describe`."""
        return self.loader.describe()

    def close(self) -> None:
        """As `forebay.Loader.close`."""
        self.loader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
