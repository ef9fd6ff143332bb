"""Networks in folders that diffusers wrote: configuration and safetensors.

Pickles are refused.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sdcodec.errors import BundleError
from sdcodec.hardware import is_out_of_memory

CONFIGURATION, WEIGHTS = "config.json", "diffusion_pytorch_model"
VARIANTS = ("", "fp16", "bf16")  # diffusion_pytorch_model.fp16.safetensors
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises BundleError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}); the folder should be as diffusers writes it"
        ) from error
    except ValueError as error:
        raise BundleError(f"{path}: not valid JSON ({error}); fetch the model again") from error
    if not isinstance(values, dict):
        raise BundleError(f"{path}: not a configuration; fetch the model again")
    return values


def weight_files(folder: Path, prefer: torch.dtype | None = None, stem: str = WEIGHTS) -> tuple[str, list[Path]]:
    """Return the variant ("", "fp16", "bf16") and its safetensors files.

    prefer: the type to prefer if there are several variants. stem: the beginning of their names; transformers has
        `model`.

    Raises BundleError if there are none, or only pickled ones.
    """
    order = list(VARIANTS)
    if prefer in (torch.float16, torch.bfloat16):
        order.sort(key=lambda variant: variant != {torch.float16: "fp16", torch.bfloat16: "bf16"}[prefer])
    for variant in order:
        infix = f".{variant}" if variant else ""
        files = [folder / f"{stem}{infix}.safetensors"]
        if not files[0].is_file():
            files = sorted(folder.glob(f"{stem}{infix}-*-of-*.safetensors"))
        if files:
            return variant, files
    if folder.is_dir() and any(path.suffix in PICKLES for path in folder.iterdir()):
        raise BundleError(
            f"{folder}: its weights are pickled, which may run code, and are not loaded; look for the model's safetensors "
            "files, or convert it if you trust it"
        )
    raise BundleError(f"{folder}: no weights ({stem}.safetensors); give a folder as diffusers writes it")


def stored_dtype(file: Path) -> torch.dtype:
    """Return the type of the file's first large tensor.

    Raises BundleError for a damaged file.
    """
    try:
        with safe_open(file, "pt") as tensors:
            names = list(tensors.keys())
            first = max(names[:50], key=lambda name: len(tensors.get_slice(name).get_shape()))
            return _DTYPES.get(tensors.get_slice(first).get_dtype(), torch.float32)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(f"{file}: damaged ({error}); fetch it again") from error


def load_network(network_class: Any, folder: Path, dtype: torch.dtype, variant: str) -> Any:
    """Load the network with its weights in `dtype`.

    diffusers knows shards and the names that older versions gave to tensors. Raises BundleError if the weights do not
    fit the configuration, or are damaged.
    """
    with explained(folder), _silent_diffusers():
        network, report = network_class.from_pretrained(
            folder,
            variant=variant or None,
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=dtype,
            output_loading_info=True,
        )
    wrong = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if wrong:
        raise BundleError(
            f"{folder}: weights and {CONFIGURATION} do not fit ({len(wrong)} tensors, such as {wrong[0]}); fetch both again"
        )
    return network.eval()


@contextlib.contextmanager
def explained(place: Path) -> Iterator[None]:
    """Turn the libraries' errors for a broken folder into a BundleError of one line.

    Errors of exhausted memory pass unchanged.
    """
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BundleError(f"{place}: cannot be loaded ({reason.strip()}); fetch the folder again") from error


@contextlib.contextmanager
def _silent_diffusers() -> Iterator[None]:
    """Silence diffusers' warnings of unknown settings.

    They concern settings that it wrote itself; relevant settings are checked here.
    """
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
