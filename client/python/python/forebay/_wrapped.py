"""What the loaders for other libraries have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, Self

from ._loader import Loader, State, Stats, not_indexed
from ._types import Description


class Wrapped:
    """A loader that gives the batches of a `forebay.Loader`, its attribute `loader`, in another form."""

    loader: Loader

    def __len__(self) -> int:
        return len(self.loader)

    def __getitem__(self, index: object) -> NoReturn:
        """Refused: batches come in order."""
        not_indexed(self)

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__name__} of {self.loader._summary()}>"

    def _repr_html_(self) -> str:
        return self.loader._html(repr(self))

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
