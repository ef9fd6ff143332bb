"""Parts of training: losses, learning rates and optimisers."""

from __future__ import annotations

import copy

import pytest
import torch

from sdcodec.training import losses
from sdcodec.training.objective import on_some
from sdcodec.training.optim import Optimisers, orthogonalise, rate_factor


@pytest.mark.parametrize("shape", [(2, 16, 144), (3, 24, 24)])
def test_steps_on_gram_matrices_are_the_steps_of_newton_and_schulz(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = matrices / matrices.norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = expected @ expected.mT
        expected = 3.4445 * expected - 4.7750 * gram @ expected + 2.0315 * gram @ gram @ expected
    assert torch.allclose(orthogonalise(matrices), expected, atol=1e-4)
    assert torch.linalg.svdvals(orthogonalise(matrices))[:, : shape[1] // 2].sub(1).abs().max() < 0.35


def test_a_wrong_colour_counts_as_a_cast_and_noise_hardly_does() -> None:
    colour = torch.tensor([3.0, 0.0, -6.0]).view(1, 3, 1, 1).expand(2, 3, 64, 64)
    assert losses.cast(colour).tolist() == pytest.approx([15.0, 15.0])
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert losses.cast(noise) < 0.01 and losses.grid(colour).tolist() == [0.0, 0.0]


def test_what_repeats_from_latent_to_latent_counts_as_a_grid_and_noise_hardly_does() -> None:
    generator = torch.Generator().manual_seed(1)
    cell = torch.randn(1, 3, 8, 8, generator=generator)
    repeated = cell.tile(1, 1, 12, 12)
    own_means = cell.mean((2, 3), keepdim=True)
    assert float(losses.grid(repeated)) == pytest.approx(float((cell - own_means).square().mean()), rel=1e-4)
    noise = torch.randn(1, 3, 96, 96, generator=generator)
    assert float(losses.grid(noise)) == pytest.approx(1 / 36, rel=0.2)


@pytest.mark.parametrize(
    ("seen", "first", "expected"),
    [
        (2, 0, [4.0, 8.0, 0.0, 0.0]),
        (1, 2, [0.0, 0.0, 24.0, 0.0]),
        (2, 3, [0.0, 0.0, 12.0, 16.0]),
        (4, 0, [2.0, 4.0, 6.0, 8.0]),
        (0, 0, [2.0, 4.0, 6.0, 8.0]),
    ],
)
def test_a_distance_on_some_of_a_batch_weighs_as_on_all(seen: int, first: int, expected: list[float]) -> None:
    class Difference:
        def distance(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
            return (images - others).mean(dim=(1, 2, 3))

    originals = torch.zeros(4, 3, 2, 2)
    reconstructed = originals + 2 * torch.arange(1.0, 5.0).view(4, 1, 1, 1)
    assert on_some(Difference(), reconstructed, originals, seen, first).tolist() == expected


def test_learning_rates_rise_stay_and_fall_to_nothing() -> None:
    steps = [rate_factor(step + 1, 10 - step, warmup=2, decay=4) for step in range(11)]
    assert steps == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
    assert [rate_factor(1, left, 0, 0) for left in (9, 1)] == [1, 1]


def test_optimisers_move_each_group_at_its_own_rate_and_go_on_where_they_stopped() -> None:
    def made() -> tuple[list[torch.Tensor], Optimisers]:
        values = [torch.ones(4, 8), torch.ones(3), torch.ones(3)]
        groups = [{"params": [values[1]]}, {"params": [values[2]], "lr": 0.3}]
        return values, Optimisers([values[0]], groups, 0.1)

    def step(values: list[torch.Tensor], optimisers: Optimisers, factor: float) -> None:
        optimisers.zero_grad()
        for value in values:
            value.grad = value.square()
        optimisers.set_rate(factor)
        optimisers.step()

    values, optimisers = made()
    step(values, optimisers, 0.5)
    assert [float(1 - value.mean()) for value in values[1:]] == pytest.approx([0.05, 0.15], rel=1e-4)
    assert 0 < float(1 - values[0].mean()) < 0.05
    state, kept = copy.deepcopy(optimisers.state()), [value.clone() for value in values]
    step(values, optimisers, 1.0)
    others, resumed = made()
    for other, value in zip(others, kept, strict=True):
        other.copy_(value)
    resumed.restore(state)
    step(others, resumed, 1.0)
    assert all(torch.equal(value, other) for value, other in zip(values, others, strict=True))
