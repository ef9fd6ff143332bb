"""Errors and warnings of sdcodec: children of SdcodecError, and SdcodecWarning.

Each message has the problem and its remedy; commands put the file's name before it if the message lacks it.
"""

from __future__ import annotations

import warnings


class SdcodecError(Exception):
    """Any problem that the caller can understand and solve."""


class ImageError(SdcodecError):
    """The input is no image, cannot be read, or exceeds the limits."""


class ImageTypeError(ImageError, TypeError):
    """The input has a type or a shape that is not read as an image."""


class FormatError(SdcodecError):
    """The `.sdc` data is unreadable, damaged, cut short, or not `.sdc` data at all."""


class FormatTypeError(FormatError, TypeError):
    """The input has a type that is not read as `.sdc` data."""


class UnsupportedVersionError(FormatError):
    """The `.sdc` data was written by a later version of the format."""


class BundleError(SdcodecError):
    """A model is unknown, broken, or not the one that wrote the file."""


class BudgetError(SdcodecError):
    """No quality of this model meets the byte budget.

    budget: the bytes that were allowed; needed: about as many as the shortest file has.
    """

    def __init__(self, message: str, budget: int = 0, needed: int = 0) -> None:
        super().__init__(message, budget, needed)
        self.budget = budget
        self.needed = needed

    def __str__(self) -> str:
        return str(self.args[0])


class TargetError(SdcodecError):
    """No quality of this model reaches the target of a metric.

    target: its value; best: that of the highest quality.
    """

    def __init__(self, message: str, target: float = 0.0, best: float = 0.0) -> None:
        super().__init__(message, target, best)
        self.target = target
        self.best = best

    def __str__(self) -> str:
        return str(self.args[0])


class NotEnoughMemoryError(SdcodecError):
    """The networks need more memory than the device has."""


class OutputError(SdcodecError):
    """The result cannot be written to its place."""


class OptionError(SdcodecError):
    """An argument is out of its range, or contradicts another."""


class TrainingError(SdcodecError):
    """A training run cannot start or go on: configuration, data, or checkpoint."""


class SdcodecWarning(UserWarning):
    """A file was read, but its result may differ from the expected one.

    problem: the text of the warning; name: the file, or "" if it is unknown.
    """

    def __init__(self, problem: str, name: str = "") -> None:
        super().__init__(problem, name)
        self.problem = problem
        self.name = name

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}" if self.name else self.problem


def warn(problem: str, name: str = "") -> None:
    """Issue an SdcodecWarning about a file."""
    warnings.warn(SdcodecWarning(problem, name), stacklevel=3)


def misfit(part: str, error: Exception) -> BundleError:
    """Return the error for weights that do not fit a model part's configuration."""
    return BundleError(
        f"the {part}'s weights do not fit its configuration: {str(error).splitlines()[0]}; install the model again"
    )
