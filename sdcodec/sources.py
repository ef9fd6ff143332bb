"""Sources of `.sdc` data: bytes, paths, and files open for binary reading."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import BinaryIO, ParamSpec, SupportsBytes, TypeVar, cast

from sdcodec.container import MAGIC
from sdcodec.errors import FormatError, FormatTypeError, OptionError, SdcodecError

SdcSource = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO | SupportsBytes
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def sdc_bytes(source: SdcSource) -> bytes:
    """Return the bytes of an `.sdc` file.

    source: the bytes, also as bytearray, memoryview or `Encoded`; a path (every str is one); or a file open for binary
        reading, which is read from its beginning if it can be rewound, as Pillow does.

    Raises FormatError if it cannot be read, FormatTypeError for other types.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _bytes_of_path(source)
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if hasattr(source, "read"):
        name = source_name(source) or "the file"
        try:
            data = rewound(cast(BinaryIO, source))
        except (OSError, ValueError) as error:  # ValueError: it is closed
            raise FormatError(f"{name}: cannot be read ({error}); open it for binary reading") from error
        if not isinstance(data, bytes):
            raise FormatTypeError(f"{name}: gives {type(data).__name__}; open it for binary reading ('rb')")
        return data
    if hasattr(source, "__bytes__"):
        return bytes(source)
    raise FormatTypeError(
        f"{type(source).__name__} is no .sdc data; give bytes, a path or a file open for binary reading"
    )


def _bytes_of_path(path: str | os.PathLike[str]) -> bytes:
    name = os.fspath(path)
    try:
        if os.path.isdir(path):
            raise FormatError(f"{name}: is a folder; give a file in it")
        with open(path, "rb") as file:  # another file may be huge, or a device without an end
            head = file.read(len(MAGIC))
            return head + file.read() if head == MAGIC else head
    except FileNotFoundError as error:
        raise FormatError(f"{name}: no such file; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise FormatError(f"{name}: cannot be read ({reason}); check the path and its permissions") from error


def sequence_of(sources: Iterable[T], name: str) -> list[T]:
    """Return the items of an argument that holds several sources.

    Raises OptionError for a single one.
    """
    if isinstance(sources, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(sources, "read"):
        raise OptionError(f"{name} is a single {type(sources).__name__}; give a list")
    try:
        return list(sources)
    except TypeError as error:
        raise OptionError(f"{name} is a single {type(sources).__name__}; give a list") from error


def rewound(file: BinaryIO) -> bytes:
    """Read all of a file from its beginning.

    One that cannot be rewound, such as a pipe, is read from its position. Raises OSError, and ValueError if it is closed.
    """
    with contextlib.suppress(AttributeError, OSError):  # io.UnsupportedOperation is an OSError
        file.seek(0)
    return file.read()


def source_name(source: object) -> str:
    """Return the path or file name of an image or of `.sdc` data; "" if it has none."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", "") if hasattr(source, "read") else ""
    return name if isinstance(name, str) else ""  # a file from a descriptor has its number


@contextlib.contextmanager
def naming(source: object) -> Iterator[None]:
    """Put the name of a source before the message of an SdcodecError that lacks it."""
    try:
        yield
    except OptionError:
        raise  # it concerns the call, not the file
    except SdcodecError as error:
        name = source_name(source)
        if name and name not in str(error):
            error.args = (f"{name}: {error}", *error.args[1:])
        raise


def naming_source(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate a method whose first argument is a source, so that errors name it."""
    parameter = list(inspect.signature(method).parameters)[1]

    @wraps(method)
    def named(*args: P.args, **kwargs: P.kwargs) -> R:
        with naming(args[1] if len(args) > 1 else kwargs.get(parameter)):
            return method(*args, **kwargs)

    return named
