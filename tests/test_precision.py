"""Tests of precision in training, and of the self-check of compiled parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from conftest import SMALL, SMALL_PRIOR
from sdcodec.autoencoders.conv import ResidualBlock
from sdcodec.perceptual.dists import DISTS
from sdcodec.perceptual.lpips import LPIPS
from sdcodec.perceptual.vgg import read_vgg16
from sdcodec.training.compiling import parts_of, repeatable_loss, use_compiled
from sdcodec.training.config import TrainingConfig
from sdcodec.training.model import TrainingModel
from sdcodec.training.objective import RateDistortion

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def model() -> TrainingModel:
    torch.manual_seed(1)
    return TrainingModel(SMALL, SMALL_PRIOR)


def low_precision() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


def test_under_autocast_only_inner_convolutions_are_bfloat16(model: TrainingModel) -> None:
    kinds: dict[str, torch.dtype] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _, __, out, name=name: kinds.update({name: out.dtype}))
        if isinstance(module, ResidualBlock):
            module.register_forward_hook(lambda _, __, out, name=name: kinds.update({f"{name} stream": out.dtype}))
    with low_precision():
        found = model(IMAGES, torch.tensor([20.0, 80.0]))
    low = {name for name, kind in kinds.items() if kind == torch.bfloat16}
    assert low == {
        name
        for name in kinds
        if name.endswith((".first", ".second", ".down", ".up_4", ".up_2")) and not name.startswith("prior")
    }
    assert {"encoder.blocks_8.0 stream", "encoder.exit", "decoder.direct", "prior.analyse_1"} <= set(kinds) - low
    assert found.coded.decoded.dtype == found.coded.bits.dtype == torch.float32


def test_perceptual_distances_compare_in_float32_under_autocast(vgg_file) -> None:
    trunk = read_vgg16(vgg_file)
    other = (IMAGES + 0.1 * torch.randn_like(IMAGES)).clamp(0, 1)
    for term in (LPIPS(), LPIPS("vgg", trunk), DISTS(trunk)):
        whole = term.distance(other, IMAGES)
        with low_precision():
            assert (
                {value.dtype for value in term.activations(IMAGES)} == {torch.float32}
                if hasattr(term, "activations")
                else True
            )
            low = term.distance(other, IMAGES)
        assert low.dtype == torch.float32 and low.tolist() == pytest.approx(whole.tolist(), rel=0.03)


def objective_of(**settings: Any) -> RateDistortion:
    config = TrainingConfig((), "", structure_weight=1.0, autoencoder=SMALL, prior=SMALL_PRIOR, **settings)
    return RateDistortion(config, torch.device("cpu"))


@pytest.fixture
def objective() -> RateDistortion:
    return objective_of(autocast=False)


def loss_of(model: TrainingModel, objective: RateDistortion) -> Callable[[bool], torch.Tensor]:
    return repeatable_loss(model, objective, IMAGES, torch.tensor([20.0, 80.0]), seed=5)


def plain(module: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
    return module.forward


def in_float32(module: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
    def run(*inputs: torch.Tensor) -> Any:
        with torch.autocast("cpu", enabled=False):
            return module.forward(*inputs)

    return run


def with_gradient(factor: float) -> Callable[..., Any]:
    """Return a compiler whose results have right values and gradients times a factor."""

    def compiled(module: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(
                factor * value - (factor - 1) * value.detach() if value.is_floating_point() else value
                for value in module.forward(*inputs)
            )

        return run

    return compiled


def that_fails(module: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
    raise RuntimeError("no compiler here")


def test_compiled_parts_with_equal_gradients_are_used(model: TrainingModel, vgg_file: Path) -> None:
    objective = objective_of(dists_weight=1.0, vgg_images=1, vgg=str(vgg_file))
    model.prior.set_quantise(True)
    said: list[str] = []
    parts = parts_of(model, objective)
    counters.clear()
    used = use_compiled(parts, list(model.parameters()), loss_of(model, objective), said.append, backend=plain)
    assert not counters["graph_break"]
    assert used == ["residual blocks", "prior", "lpips", "dists", "errors of pixels"]
    assert said == [f"compiled, with the same gradients: {', '.join(used)}"]
    assert "forward" in vars(model.encoder.blocks_8[0]) and "distance" in vars(objective.lpips)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parts_that_round_less_than_the_plain_ones_are_used(model: TrainingModel, objective: RateDistortion) -> None:
    objective.autocast = True
    parts = parts_of(model, objective)
    loss, said = loss_of(model, objective), list[str]()
    assert len(use_compiled(parts, list(model.parameters()), loss, said.append, in_float32)) == len(parts)
    assert loss(True).item() == pytest.approx(loss(False).item(), rel=0.01) and objective.autocast


@pytest.mark.parametrize(
    ("backend", "autocast", "complaint"),
    [
        (with_gradient(1.05), False, "gradients have a cosine of"),
        (with_gradient(2.0), True, "gradients have a cosine of"),
        (that_fails, False, "no compiler here"),
    ],
    ids=["5% too large", "twice as large", "no compiler"],
)
def test_parts_stay_plain_after_a_wrong_gradient_or_an_error(
    model: TrainingModel, objective: RateDistortion, backend: Callable[..., Any], autocast: bool, complaint: str
) -> None:
    objective.autocast = autocast
    before = loss_of(model, objective)(False)
    said: list[str] = []
    parts = parts_of(model, objective)
    assert not use_compiled(parts, list(model.parameters()), loss_of(model, objective), said.append, backend=backend)
    assert [complaint in line for line in said] == [True] * len(parts)
    assert "forward" not in vars(model.encoder.blocks_8[0])
    assert torch.equal(loss_of(model, objective)(False), before)
