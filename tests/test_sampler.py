"""Noise levels, predictions and the walk, checked with oracles and diffusers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sdcodec.denoisers.prediction import PREDICTIONS
from sdcodec.denoisers.sampler import denoise
from sdcodec.denoisers.schedule import alphas_cumprod, noise_schedule
from sdcodec.denoisers.windows import WindowedDenoiser
from sdcodec.errors import BundleError

diffusers = pytest.importorskip("diffusers", reason="the extra sd is not installed")

SCHEDULES = {
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "given betas": {"trained_betas": [0.001, 0.01, 0.1, 0.2], "num_train_timesteps": 4},
    "zero SNR": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "rescale_betas_zero_snr": True,
    },
}
STABLE_DIFFUSION = SCHEDULES["scaled_linear"]
TURBO = (249, 499, 749, 999)
STEPS = [1, 2, 4, 20]


@pytest.fixture
def clean() -> Tensor:
    return torch.randn(1, 4, 24, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def noise() -> Tensor:
    """White, of deviation 1 exactly."""
    values = torch.randn(1, 4, 24, 16, generator=torch.Generator().manual_seed(2))
    return values / values.square().mean().sqrt()


def signal_share(timestep: float, settings: dict[str, object]) -> float:
    """alphas_cumprod by diffusers, between timesteps linear in the logarithm of sigma."""
    cumulative = diffusers.DDPMScheduler(**settings).alphas_cumprod.double().numpy()
    logarithms = 0.5 * np.log((1 - cumulative) / cumulative)
    return float(1 / (1 + np.exp(2 * np.interp(timestep, np.arange(len(logarithms)), logarithms))))


class Oracle:
    """A network that returns the truth about `clean` at the timestep it is given.

    Without `noise` it derives the noise from its input, so it is wrong if scaling and timestep do not match. With
    `noise` it returns this noise, so a walk that begins at another level than the error's ends elsewhere.
    """

    def __init__(self, prediction: str, clean: Tensor, noise: Tensor | None = None) -> None:
        self.prediction, self.clean, self.noise = prediction, clean, noise
        self.timesteps: list[float] = []

    def __call__(self, x: Tensor, timestep: float) -> Tensor:
        self.timesteps.append(timestep)
        share = signal_share(timestep, STABLE_DIFFUSION)
        signal, sigma = math.sqrt(share), math.sqrt(1 - share)
        noise = (x - signal * self.clean) / sigma if self.noise is None else self.noise
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "v_prediction":
            return signal * noise - sigma * self.clean
        return self.clean if self.noise is None else (x - sigma * noise) / signal


class Recorder:
    """A denoiser that knows the clean latents and remembers what it was asked."""

    def __init__(self, clean: Tensor, settings: dict[str, object], trained: tuple[int, ...] | None = None) -> None:
        self.clean, self.schedule = clean, noise_schedule(settings, trained)
        self.sigmas: list[float] = []
        self.inputs: list[Tensor] = []

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.sigmas.append(sigma)
        self.inputs.append(x)
        return self.clean


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_schedule_is_diffusers(name):
    settings = SCHEDULES[name]
    expected = diffusers.DDPMScheduler(**settings).alphas_cumprod.double().numpy()
    own = alphas_cumprod(settings)
    assert np.allclose(own[:-1], expected[:-1], rtol=1e-4, atol=1e-9)
    euler = diffusers.EulerDiscreteScheduler(**settings).sigmas.double().numpy()[:-1][::-1]
    assert np.allclose(noise_schedule(settings).sigmas, euler, rtol=1e-3)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(BundleError, match="'laplace'"):
        noise_schedule({"beta_schedule": "laplace"})


def test_timesteps_and_sigmas_are_inverse_to_each_other():
    schedule = noise_schedule(STABLE_DIFFUSION)
    for timestep in (0, 0.25, 80, 333.3, 999):
        assert schedule.timestep(schedule.sigma(timestep)) == pytest.approx(timestep, abs=1e-6)
    assert schedule.timestep(1e-9) == 0 and schedule.timestep(1e9) == 999


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("deviation", [0.03, 0.1, 0.4, 2.0])
@pytest.mark.parametrize("num_steps", STEPS)
def test_an_oracle_brings_back_the_clean_latents(clean, noise, prediction, deviation, num_steps):
    oracle = Oracle(prediction, clean)
    denoiser = PREDICTIONS[prediction](oracle, noise_schedule(STABLE_DIFFUSION))
    result = denoise(clean + deviation * noise, deviation, denoiser, num_steps)
    assert (result - clean).abs().max() < 1e-3 * max(1, deviation)
    assert len(oracle.timesteps) == num_steps


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("deviation", [0.03, 0.1, 0.4, 2.0])
@pytest.mark.parametrize("num_steps", STEPS)
def test_the_noise_level_is_the_errors(clean, noise, prediction, deviation, num_steps):
    """The oracle removes its noise times the given sigma: only the right one leaves 0."""
    denoiser = PREDICTIONS[prediction](Oracle(prediction, clean, noise), noise_schedule(STABLE_DIFFUSION))
    result = denoise(clean + deviation * noise, deviation, denoiser, num_steps)
    assert (result - clean).abs().max() < 1e-3 * deviation
    wrong = denoise(clean + deviation * noise, 1.2 * deviation, denoiser, num_steps)
    assert (wrong - clean).square().mean().sqrt() > 0.01 * deviation


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("trained", [None, TURBO])
def test_the_walk_is_the_one_of_diffusers_euler_scheduler(clean, noise, prediction, trained):
    """With a network that is far from any truth."""

    def network(x: Tensor, timestep: float) -> Tensor:
        return torch.sin(3 * x + timestep / 50)

    own = PREDICTIONS[prediction](network, noise_schedule(STABLE_DIFFUSION, trained))
    start = clean + 0.5 * noise
    mine = denoise(start, 0.5, own, 3, seed=4)
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type=prediction, **STABLE_DIFFUSION)
    if trained is None:
        first = own.schedule.timestep(0.5)
        sigmas = [0.5, own.schedule.sigma(first * 2 / 3), own.schedule.sigma(first / 3)]
        x = start
    else:
        sigmas = [float(own.schedule.sigmas[249])]  # the only one that it knows there
        drawn = torch.randn(start.shape, generator=torch.Generator().manual_seed(4))
        x = start + (sigmas[0] ** 2 - 0.5**2) ** 0.5 * drawn
    scheduler.set_timesteps(sigmas=[*sigmas, 0.0])
    for timestep in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, timestep), float(timestep))
        x = scheduler.step(output, timestep, x).prev_sample
    assert (mine - x).abs().max() < 2e-3


@pytest.mark.parametrize("trained", [None, TURBO])
def test_zero_steps_and_errors_below_the_smallest_sigma_change_nothing(clean, trained):
    recorder = Recorder(clean, STABLE_DIFFUSION, trained)
    latents = clean + 0.02
    assert denoise(latents, 0.5, recorder, 0) is latents
    assert denoise(latents, 0.02, recorder, 4) is latents
    assert denoise(latents, 0.5, recorder, 4, strength=0.0) is latents
    assert not recorder.sigmas


def test_strength_scales_the_noise_level(clean):
    recorder = Recorder(clean, STABLE_DIFFUSION)
    denoise(clean, 0.4, recorder, 1, strength=0.5)
    denoise(clean, 0.4, recorder, 1, strength=3.0)
    assert recorder.sigmas == pytest.approx([0.2, 1.2])


def test_the_level_is_the_mean_square_over_channels(clean):
    recorder = Recorder(clean, STABLE_DIFFUSION)
    denoise(clean, torch.tensor([0.1, 0.2, 0.3, 0.4]), recorder, 1)
    assert recorder.sigmas == pytest.approx([math.sqrt((0.01 + 0.04 + 0.09 + 0.16) / 4)])


def test_more_error_than_the_model_was_trained_on_begins_at_its_last_timestep(clean):
    for trained in (None, TURBO):
        recorder = Recorder(clean, STABLE_DIFFUSION, trained)
        denoise(clean, 100.0, recorder, 1)
        assert recorder.sigmas == pytest.approx([recorder.schedule.largest])


def test_a_zero_snr_model_is_walked_from_any_level(clean, noise):
    recorder = Recorder(clean, SCHEDULES["zero SNR"])
    result = denoise(clean + 5000 * noise, 5000.0, recorder, 3)
    assert torch.equal(result, clean) and recorder.sigmas[0] == pytest.approx(4096, rel=1e-3)


@pytest.mark.parametrize(
    ("deviation", "num_steps", "timesteps"),
    [
        (0.2, 1, [249]),
        (0.2, 4, [249]),
        (1.0, 4, [499, 249]),
        (1.0, 1, [499]),
        (14.0, 4, [999, 749, 499, 249]),
        (14.0, 2, [999, 499]),
    ],
)
def test_a_turbo_model_is_asked_at_its_own_timesteps_only(clean, deviation, num_steps, timesteps):
    recorder = Recorder(clean, STABLE_DIFFUSION, TURBO)
    denoise(clean, deviation, recorder, num_steps)
    assert [recorder.schedule.timestep(sigma) for sigma in recorder.sigmas] == pytest.approx(timesteps)


def test_a_turbo_model_gets_the_noise_that_is_missing_in_each_channel():
    clean = torch.zeros(1, 2, 128, 128)
    deviations = torch.tensor([0.1, 0.5])
    error = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3)) * deviations[:, None, None]
    recorder = Recorder(clean, STABLE_DIFFUSION, TURBO)
    denoise(clean + error, deviations, recorder, 1, seed=9)
    assert recorder.inputs[0].std((0, 2, 3)) == pytest.approx([recorder.sigmas[0]] * 2, rel=0.02)


def test_noise_depends_on_the_seed_alone(clean):
    def asked(seed: int, trained: tuple[int, ...] | None) -> Tensor:
        recorder = Recorder(clean, STABLE_DIFFUSION, trained)
        denoise(clean, 0.3, recorder, 1, seed=seed)
        return recorder.inputs[0]

    torch.manual_seed(1)
    first = asked(1, TURBO)
    torch.manual_seed(2)
    assert torch.equal(first, asked(1, TURBO)) and not torch.equal(first, asked(2, TURBO))
    assert torch.equal(asked(1, None), asked(2, None)) and torch.equal(asked(1, None), clean)


def test_windows_are_bounded_and_leave_no_seams(clean):
    """Pointwise results are the same with every window."""
    seen: list[tuple[int, ...]] = []

    class Pointwise(Recorder):
        def __call__(self, x: Tensor, sigma: float) -> Tensor:
            seen.append(tuple(x.shape))
            return x * sigma + x**2

    denoiser = Pointwise(clean, STABLE_DIFFUSION)
    x = torch.randn(1, 4, 40, 100, generator=torch.Generator().manual_seed(6))
    blended = WindowedDenoiser(denoiser, 32)(x, 0.5)
    assert (blended - denoiser(x, 0.5)).abs().max() < 1e-5
    assert max(shape[2] for shape in seen[:-1]) <= 32 and max(shape[3] for shape in seen[:-1]) <= 32


def test_windows_fade_into_each_other():
    """Windows that disagree are blended without a step larger than the ramp's."""
    count = 0

    class Stubborn(Recorder):
        def __call__(self, x: Tensor, sigma: float) -> Tensor:
            nonlocal count
            count += 1
            return torch.full_like(x, count)

    x = torch.zeros(1, 4, 32, 72)
    blended = WindowedDenoiser(Stubborn(x, STABLE_DIFFUSION), 32)(x, 0.5)
    steps = blended[0, 0].diff(dim=1).abs()
    assert count > 2 and blended.min() == 1 and blended.max() == count and steps.max() <= 1 / 8 + 1e-5


def test_small_latents_are_seen_whole(clean):
    denoiser = WindowedDenoiser(recorder := Recorder(clean, STABLE_DIFFUSION), 32)
    assert torch.equal(denoiser(clean, 0.5), clean)
    assert len(recorder.inputs) == 1
