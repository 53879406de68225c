"""The bindings, loaded after torch, whose libraries they use."""

from importlib import metadata
from importlib.util import find_spec

from outrider.errors import OutriderError

TORCH_VERSION = "2.11.0"


def _check_torch() -> None:
    try:
        found = metadata.version("torch")
    except metadata.PackageNotFoundError:
        found = None
    if found is not None and found.split("+")[0] == TORCH_VERSION:
        return
    raise ImportError(
        f"outrider works with torch {TORCH_VERSION}, but this environment has "
        f"{'no torch' if found is None else 'torch ' + found}: pip install torch=={TORCH_VERSION}"
    )


def _check_transformers() -> None:
    if find_spec("transformers") is None:
        raise ImportError("outrider converts models of transformers, which this environment has not: "
                          "pip install transformers")


_check_torch()
_check_transformers()

import torch  # noqa: E402, F401

try:
    from outrider import _C
except ImportError as error:
    raise ImportError(
        f"outrider's bindings cannot be loaded ({error}): install the wheel, or in a source tree "
        "run `make build` and put build/python on PYTHONPATH"
    ) from error

__all__ = ["_C", "OutriderError", "TORCH_VERSION"]
