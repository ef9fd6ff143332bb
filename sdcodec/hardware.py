"""Devices and precisions of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from sdcodec.errors import NotEnoughMemoryError, OptionError

P = ParamSpec("P")
R = TypeVar("R")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# The threads of OpenMP do not survive a fork: a forked process would wait for them without an end.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def device(name: str = "auto") -> torch.device:
    """Return the device of this name; `auto` prefers CUDA, then MPS, then the CPU.

    Raises OptionError for a device that is not available.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise OptionError(f"device {name!r} is not available here; choose cpu or auto") from error
    if chosen.type == "meta":
        raise OptionError("the device 'meta' computes nothing; choose cpu or auto")
    return chosen


def dtype(precision: str, on: torch.device) -> torch.dtype:
    """Return the type of this precision.

    `auto` is bfloat16 on hardware that is fast at it, float32 elsewhere. Raises OptionError for an unknown name.
    """
    if precision != "auto":
        if not isinstance(precision, str) or precision not in DTYPES:
            raise OptionError(f"precision {precision!r} is unknown; choose auto, {', '.join(DTYPES)}")
        return DTYPES[precision]
    if on.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if on.type == "cpu" and _cpu_has_bfloat16() else torch.float32


def undisturbed(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate a method so that it runs outside of the caller's modes of PyTorch.

    Its results do not depend on them. The modes are inference mode, gradients, autocast and the default device. They
    belong to the thread; the default dtype belongs to the process and is not touched: the networks name their dtypes.
    """

    @wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as modes:
            modes.enter_context(torch.inference_mode(False))
            modes.enter_context(torch.no_grad())
            for kind in ("cpu", "cuda", "mps"):
                if torch.is_autocast_enabled(kind):
                    modes.enter_context(torch.autocast(kind, enabled=False))
            if torch.empty(0).device.type != "cpu":
                modes.enter_context(torch.device("cpu"))
            return method(*args, **kwargs)

    return run


@contextmanager
def without_denormals() -> Iterator[None]:
    """Take numbers below 1e-38 for 0, in this thread.

    A CPU's convolutions take seven times as long with them, and an attacker's latents can make many.
    """
    before = bool(torch.tensor(1e-40, dtype=torch.float32, device="cpu").mul_(1) == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextmanager
def explained_memory(remedy: str) -> Iterator[None]:
    """Turn PyTorch's errors of exhausted memory into NotEnoughMemoryError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise NotEnoughMemoryError(f"not enough memory; {remedy}") from error


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error is one of exhausted memory.

    CUDA has a class for it; the CPU's allocator, Metal and file mappings have only messages.
    """
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    words = str(error).lower()
    return any(phrase in words for phrase in ("out of memory", "not enough memory", "allocate memory"))


def _cpu_has_bfloat16() -> bool:
    """Return whether the CPU has AVX-512 BF16 or AMX.

    Others emulate bfloat16, slower than float32.
    """
    features = torch.backends.cpu.get_cpu_capability()
    if features not in ("AVX512", "AVX512_BF16", "AMX"):
        return False
    probe: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(probe.get("avx512_bf16") or probe.get("amx_bf16"))
