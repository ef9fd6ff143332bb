"""Compile residual blocks if their gradients equal those of the plain blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdcodec.autoencoders.conv import ResidualBlock

SMALLEST_COSINE = 0.999  # of the gradients of all parameters
SMALLEST_BLOCK_COSINE = 0.99  # of those of the blocks alone: small beside the others at the start
NORM_TOLERANCE = 0.01
LOSS_TOLERANCE = 0.005
COMPILED_SHAPES = 64  # widths, batches and modes that one function may be compiled for


@dataclass(frozen=True)
class Gradients:
    """Loss and gradients: of all parameters, and of those in residual blocks."""

    loss: float
    all: Tensor
    blocks: Tensor


def use_compiled_blocks(
    model: nn.Module,
    loss_of: Callable[[], Tensor],
    say: Callable[[str], None],
    backend: str | Callable[..., Any] = "inductor",
) -> bool:
    """Compile the residual blocks of `model`, or leave them plain and say why.

    `loss_of` returns the same loss at each call, with its random numbers. The compiled blocks stay if the gradients
    have a cosine above 0.999 with the plain ones, norms within 1% and the loss within 0.5%.
    """
    plain = _gradients(model, loss_of)
    _compile_blocks(model, backend)
    try:
        compiled = _gradients(model, loss_of)
    except Exception as error:  # compilers raise errors of every kind
        _restore_blocks(model)
        say(f"residual blocks stay uncompiled: {' '.join(str(error).split())[:200]}")
        return False
    complaint = _difference(compiled, plain)
    if complaint:
        _restore_blocks(model)
        say(f"residual blocks stay uncompiled: {complaint}")
    else:
        say("residual blocks compiled: their gradients equal the plain ones")
    return not complaint


@contextmanager
def plain_blocks() -> Iterator[None]:
    """Run compiled blocks uncompiled, for batches that differ from training."""
    if hasattr(torch.compiler, "set_stance"):  # PyTorch 2.6 and later
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


def _compile_blocks(model: nn.Module, backend: str | Callable[..., Any]) -> None:
    """Let each block call one compiled function."""
    # Blocks of different widths share the function.
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, COMPILED_SHAPES)
    compiled = torch.compile(ResidualBlock.forward, dynamic=False, backend=backend)
    for block in _blocks(model):
        block.forward = MethodType(compiled, block)  # type: ignore[method-assign]


def _restore_blocks(model: nn.Module) -> None:
    for block in _blocks(model):
        del block.forward


def _blocks(model: nn.Module) -> list[ResidualBlock]:
    return [module for module in model.modules() if isinstance(module, ResidualBlock)]


def _gradients(model: nn.Module, loss_of: Callable[[], Tensor]) -> Gradients:
    """Return loss and gradients; gradients of parameters stay as they are."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = loss_of()
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    values = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    inner = {id(parameter) for block in _blocks(model) for parameter in block.parameters()}
    chosen = [value for parameter, value in zip(parameters, values, strict=True) if id(parameter) in inner]
    return Gradients(float(loss.detach()), _vector(values), _vector(chosen))


def _vector(values: list[Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values]).double() if values else torch.zeros(1).double()


def _difference(found: Gradients, plain: Gradients) -> str:
    """Return the first difference that is too large, or an empty text."""
    if not abs(found.loss - plain.loss) <= LOSS_TOLERANCE * abs(plain.loss):
        return f"loss {found.loss:.6g}, {plain.loss:.6g} without compilation"
    for name, smallest in (("all", SMALLEST_COSINE), ("blocks", SMALLEST_BLOCK_COSINE)):
        ours, theirs = getattr(found, name), getattr(plain, name)
        if float(theirs.norm()) == 0 and float(ours.norm()) == 0:
            continue
        cosine = float(F.cosine_similarity(ours, theirs, dim=0))
        ratio = float(ours.norm() / theirs.norm())
        if not (cosine > smallest and abs(ratio - 1) < NORM_TOLERANCE):
            return f"gradients ({name}) with cosine {cosine:.5f} and norms in ratio {ratio:.4f} to the plain ones"
    return ""
