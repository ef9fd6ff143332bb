"""The errors that sdcodec raises; all are children of SdcodecError, and each message says what is wrong and what helps.

Commands put the file's name before it where the message lacks it.
"""


class SdcodecError(Exception):
    """Whatever goes wrong for a reason that the caller can understand and mend."""


class ImageError(SdcodecError):
    """The input is no image, cannot be read, or exceeds the limits."""


class FormatError(SdcodecError):
    """The `.sdc` data is damaged, cut short, or not `.sdc` data at all."""


class UnsupportedVersionError(FormatError):
    """The `.sdc` data was written by a later version of the format."""


class BundleError(SdcodecError):
    """A model is unknown, broken, or not the one that wrote the file."""


class BudgetError(SdcodecError):
    """No quality of this model meets the byte budget."""


class NotEnoughMemoryError(SdcodecError):
    """The networks need more memory than the device has."""


class OutputError(SdcodecError):
    """The result cannot be written where it was asked for."""


class OptionError(SdcodecError):
    """An argument is out of its range, or contradicts another."""


class TrainingError(SdcodecError):
    """A training run cannot start or go on: configuration, data, or checkpoint."""


def misfit(part: str, error: Exception) -> BundleError:
    """For weights of a model's `part` that the networks of its configuration do not take: `error` says which."""
    return BundleError(
        f"the {part}'s weights do not fit its configuration: {str(error).splitlines()[0]}; install the model again"
    )
