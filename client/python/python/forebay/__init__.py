"""Data loading and augmentation for image training: a loader for PyTorch, JAX and numpy.

`Loader` gives batches as arrays that every library reads in place. `forebay.torch`, `forebay.timm` and
`forebay.jax` give them in the form that these expect. The package has the three commands, too: `forebay`,
`forebay-loadtest` and `forebay-trainer`.
"""

from ._batch import Batch
from ._errors import (
    DatasetError,
    Error,
    ForebayWarning,
    ForkError,
    GaveUpError,
    InternalError,
    NoServerError,
    OptionsError,
    RefusedError,
    ServerError,
    StateError,
)
from ._forebay import Array, __version__
from ._loader import Loader, State, Stats
from ._types import Description, ServerStats

__all__ = [
    "Array",
    "Batch",
    "DatasetError",
    "Description",
    "Error",
    "ForebayWarning",
    "ForkError",
    "GaveUpError",
    "InternalError",
    "Loader",
    "NoServerError",
    "OptionsError",
    "RefusedError",
    "ServerError",
    "ServerStats",
    "State",
    "StateError",
    "Stats",
    "__version__",
]
