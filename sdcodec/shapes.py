"""Comparison of a bundle's tensors with its configuration."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sdcodec.errors import BundleError

Shape = tuple[int, ...]


def check_shapes(part: str, expected: Mapping[str, Shape], tensors: Mapping[str, Tensor]) -> None:
    """Compare names and shapes of a part's tensors with `expected`.

    Raises BundleError at the first difference.
    """
    for name, shape in expected.items():
        if name not in tensors:
            raise _mismatch(part, f"the tensor {name!r} is missing")
        if tuple(tensors[name].shape) != shape:
            found = list(tensors[name].shape)
            raise _mismatch(
                part, f"the tensor {name!r} has the shape {found}, the configuration asks for {list(shape)}"
            )
    if unknown := sorted(set(tensors) - set(expected)):
        raise _mismatch(part, f"the configuration knows no tensor {unknown[0]!r}")


def _mismatch(part: str, reason: str) -> BundleError:
    return BundleError(f"the {part} does not fit its configuration: {reason}; install the model again")
