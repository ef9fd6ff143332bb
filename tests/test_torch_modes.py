"""Modes of PyTorch that a caller has set, and forks: same bytes, same pixels."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sdcodec
from conftest import photograph
from sdcodec import hardware, refinement

PICTURE = photograph(56, 72)
ENCODINGS: tuple[dict[str, Any], ...] = (
    {"quality": 40, "effort": 3},
    {"target_bytes": 1200, "effort": 4},
    {"mode": "palette"},
)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: default_device("meta"),
    "device context": lambda: torch.device("meta"),
}


EXPECTED: dict[str, list[bytes]] = {}  # by the name of the bundle, without any mode


def results(codec: sdcodec.Codec) -> list[bytes]:
    """Return files and pixels of every way to encode."""
    files = [codec.encode(PICTURE, **options).data for options in ENCODINGS]
    files += [own.data for own in codec.encode_batch([PICTURE, PICTURE], quality=20)]
    decoded = [*map(codec.decode, files), *codec.decode_batch(files), codec.round_trip(PICTURE)]
    return [*files, *(np.asarray(image).tobytes() for image in decoded), codec.symbols(files[0]).tobytes()]


# The adaptive prior is slow: one mode of each kind.
CASES = [("random_bundle", mode) for mode in MODES]
CASES += [("adaptive_bundle", mode) for mode in ("inference_mode", "autocast", "float64", "default device")]


def fresh(bundle: Path) -> sdcodec.Codec:
    """Load everything anew."""
    gc.collect()
    refinement._lpips.cache_clear()
    return sdcodec.Codec(bundle, device="cpu", precision="float32")


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_results_do_not_depend_on_the_modes_of_the_caller(request: pytest.FixtureRequest, name: str, mode: str) -> None:
    bundle = request.getfixturevalue(name)
    if bundle.name not in EXPECTED:
        EXPECTED[bundle.name] = results(fresh(bundle))
    expected = EXPECTED[bundle.name]
    with MODES[mode]():
        codec = fresh(bundle)
        assert results(codec) == expected
    assert results(codec) == expected  # a Codec made within the mode works outside of it


def test_the_modes_of_the_caller_stay(random_bundle: Path) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        sdcodec.Codec(random_bundle, device="cpu").encode(PICTURE)
        assert torch.is_inference_mode_enabled() and torch.is_autocast_enabled("cpu")
    sdcodec.Codec(random_bundle, device="cpu").encode(PICTURE)
    assert torch.is_grad_enabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_encodes_after_its_parent_has(random_bundle: Path) -> None:
    # The threads of OpenMP do not survive a fork: with more than one, the child would wait for them without an end.
    code = (
        "import os, sys, signal, threading, numpy, torch, sdcodec\n"
        "torch.set_num_threads(4)\n"
        "picture = numpy.random.default_rng(1).integers(0, 256, (256, 256, 3), numpy.uint8)\n"
        "codec = sdcodec.Codec(sys.argv[1], device='cpu', precision='float32')\n"
        "expected = codec.encode(picture, quality=30).data\n"
        "sdcodec._kept_lock.acquire()\n"  # as by another thread while this one forks
        "child = os.fork()\n"
        "if not child:\n"
        "    signal.alarm(60)\n"
        "    own = sdcodec.encode(picture, quality=30, model=sys.argv[1], device='cpu', precision='float32')\n"
        "    os._exit(0 if own == expected and torch.get_num_threads() == 1 else 3)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert torch.get_num_threads() == 4\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "4"}
    subprocess.run([sys.executable, "-c", code, str(random_bundle)], check=True, timeout=120, env=environment)


@pytest.mark.parametrize("before", [False, True])
def test_denormal_numbers_are_flushed_while_pixels_are_made(before: bool) -> None:
    """They make convolutions slow; the caller's arithmetic stays as it is."""
    if not torch.set_flush_denormal(before):
        pytest.skip("this processor cannot flush denormal numbers")
    try:
        with hardware.without_denormals():
            assert torch.tensor(1e-40).mul_(1) == 0
        codec = sdcodec.Codec("base", device="cpu")
        codec.decode(codec.encode(PICTURE).data)
        assert bool(torch.tensor(1e-40).mul_(1) == 0) is before
    finally:
        torch.set_flush_denormal(False)
