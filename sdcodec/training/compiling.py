"""Compile parts of a training step whose gradients equal those of the plain ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sdcodec.autoencoders.conv import ResidualBlock
from sdcodec.training.model import TrainingModel
from sdcodec.training.objective import RateDistortion
from sdcodec.training.prior_layers import IntegerReady

LOSS_TOLERANCE = 0.005
# The largest distance of a compiled gradient from that in float32, relative to its norm:
TOLERANCE = 1e-3  # without bfloat16;
WHOLE, SHARE = 0.045, 0.14  # with it (cosines of 0.999 and 0.99), for all gradients and for a part's share,
MOST_ERROR = 2.0  # and besides so many times that of the plain one, which is rounded too: about 0.03, DISTS alone 0.2
SMALLEST_SHARE = 1e-4  # of the norm of all gradients: below it, differences do not count
COMPILED_SHAPES = 64  # widths, batches and modes that one function may be compiled for


@dataclass(frozen=True)
class Part:
    """Methods that are compiled together or not at all: pairs of object and name."""

    name: str
    methods: list[tuple[Any, str]]

    def parameters(self) -> set[Tensor]:
        """Return the parameters of its modules that are trained."""
        modules = [owner for owner, _ in self.methods if isinstance(owner, nn.Module)]
        return {parameter for module in modules for parameter in module.parameters() if parameter.requires_grad}

    def compile(self, backend: str | Callable[..., Any]) -> None:
        """Let objects of a class call one compiled function."""
        # Different widths share the function.
        torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, COMPILED_SHAPES)
        compiled: dict[Callable[..., Any], Callable[..., Any]] = {}
        for owner, name in self.methods:
            plain = getattr(type(owner), name)
            if plain not in compiled:
                compiled[plain] = torch.compile(plain, dynamic=False, backend=backend)
            setattr(owner, name, MethodType(compiled[plain], owner))

    def silence(self) -> None:
        """Let no gradients through."""
        for owner, name in self.methods:
            setattr(owner, name, partial(_detached, MethodType(getattr(type(owner), name), owner)))

    def restore(self) -> None:
        """Let all objects call their plain methods."""
        for owner, name in self.methods:
            del vars(owner)[name]


def parts_of(model: TrainingModel, objective: RateDistortion) -> list[Part]:
    """Return the parts of a step that compiling makes quicker."""
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    layers = [module for module in model.prior.modules() if isinstance(module, IntegerReady) and module != model.prior]
    prior = [(layer, "forward") for layer in layers] + [(model.prior, "features"), (model.prior, "code_length")]
    distances = {"lpips": objective.lpips} | {name: term for name, (_, term) in objective.vgg_terms.items()}
    return [
        Part("residual blocks", [(block, "forward") for block in blocks]),
        Part("prior", prior),
        *(Part(name, [(distance, "distance")]) for name, distance in distances.items()),
        Part("errors of pixels", [(objective, "pixel_terms")]),
    ]


def repeatable_loss(
    model: TrainingModel, objective: RateDistortion, images: Tensor, quality: Tensor, seed: int, realism: float = 0.0
) -> Callable[[bool], Tensor]:
    """Return the loss as a function that gives the same at each call.

    Its argument tells whether to compute in float32. Inputs as for `RateDistortion`.
    """

    def loss(exact: bool) -> Tensor:
        torch.manual_seed(seed)
        with objective.exactly(exact):
            return objective(model, images, quality, realism)[0]

    return loss


def use_compiled(
    parts: list[Part],
    parameters: list[Tensor],
    loss_of: Callable[[bool], Tensor],
    say: Callable[[str], None],
    backend: str | Callable[..., Any] = "inductor",
) -> list[str]:
    """Compile each part, or leave it plain and say why.

    Returns the names of the compiled ones. `loss_of` is a `repeatable_loss`. A part stays compiled if, with it and
    those before it, the loss is within 0.5% of the plain one, and the gradients of `parameters` are those of float32 up
    to rounding: within 0.1%, or where the plain ones are rounded to bfloat16, within twice their error and 4.5%. So has
    to be its share of them, within twice the error and 14%: those of its own parameters, or if it has none those that
    flow through it.
    """
    exact = _gradients(parameters, partial(loss_of, True))
    before = plain = _gradients(parameters, partial(loss_of, False))
    whole = exact.vector()
    smallest = SMALLEST_SHARE * float(whole.norm())
    used = []
    for part in parts:
        share = _share_of(part, parameters, loss_of)
        exact_share, share_before = share(exact, True), share(before, False)
        part.compile(backend)
        try:
            found = _gradients(parameters, partial(loss_of, False))
            complaint = (
                _loss_difference(found, plain)
                or _difference("all gradients", found.vector(), plain.vector(), whole, WHOLE)
                or _difference("its gradients", share(found, False), share_before, exact_share, SHARE, smallest)
            )
        except Exception as error:  # compilers raise errors of every kind
            complaint = " ".join(str(error).split())[:200]
        if complaint:
            part.restore()
            say(f"{part.name} not compiled: {complaint}")
        else:
            before = found
            used.append(part.name)
    if used:
        say(f"compiled, with the same gradients: {', '.join(used)}")
    return used


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled parts uncompiled, for batches that differ from training."""
    if hasattr(torch.compiler, "set_stance"):  # PyTorch 2.6 and later
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


@dataclass(frozen=True)
class _Gradients:
    loss: float
    values: list[Tensor]  # one for each parameter

    def vector(self, chosen: Sequence[int] | None = None) -> Tensor:
        """Return all gradients, or those of chosen parameters, in one row, float64."""
        own = [self.values[number].flatten() for number in (range(len(self.values)) if chosen is None else chosen)]
        return torch.cat(own).double()


def _gradients(parameters: list[Tensor], loss_of: Callable[[], Tensor]) -> _Gradients:
    """Return loss and gradients; gradients of parameters stay as they are."""
    loss = loss_of()
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    values = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return _Gradients(float(loss.detach()), values)


def _share_of(
    part: Part, parameters: list[Tensor], loss_of: Callable[[bool], Tensor]
) -> Callable[[_Gradients, bool], Tensor]:
    """Return the function that takes the part's share from gradients, a row.

    Its second argument tells whether they were computed in float32.
    """
    own = part.parameters()
    if own:
        chosen = [number for number, parameter in enumerate(parameters) if parameter in own]
        return lambda found, _: found.vector(chosen)
    part.silence()
    try:
        others = {exact: _gradients(parameters, partial(loss_of, exact)).vector() for exact in (True, False)}
    finally:
        part.restore()
    return lambda found, exact: found.vector() - others[exact]


def _detached(method: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a method, and cut its results, or a dictionary of them, from the graph."""
    return tree_map(lambda value: value.detach(), method(*args, **options))


def _loss_difference(found: _Gradients, plain: _Gradients) -> str:
    if abs(found.loss - plain.loss) <= LOSS_TOLERANCE * abs(plain.loss):
        return ""
    return f"the loss is {found.loss:.6g}, {plain.loss:.6g} without compilation"


def _difference(name: str, found: Tensor, plain: Tensor, exact: Tensor, limit: float, smallest: float = 0.0) -> str:
    """Return how the gradients differ if that is too much, or an empty text."""
    error, rounding, norm = (float(each.norm()) for each in (found - exact, plain - exact, exact))
    rounded = rounding > TOLERANCE * norm
    if error <= smallest + (MOST_ERROR * rounding + limit * norm if rounded else TOLERANCE * norm):
        return ""
    cosine, ratio = float(F.cosine_similarity(found, plain, dim=0)), float(found.norm() / plain.norm())
    return f"{name} have a cosine of {cosine:.5f} with the plain ones and {ratio:.4f} times their norm"
