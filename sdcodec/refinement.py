"""Refinement of latents while encoding: gradient descent on rate and distortion.

The file stays ordinary. The idea is BigSleep's, to move a generator's input until a network's score is best, with a
codec's score. Bits come from an exact walk of the integer prior, its means and tables held fixed for a step, so that
any prior will do; distortion comes from the bundle's decoder, which has to be differentiable, and LPIPS.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from sdcodec import tiling
from sdcodec.autoencoders.protocol import DifferentiableAutoencoder
from sdcodec.grid import Recorded, record
from sdcodec.model import Model
from sdcodec.perceptual.lpips import LPIPS
from sdcodec.priors.rounding import further_bits

MSE_SCALE = 255.0**2 / 400  # distortion per pixel: MSE of 8-bit values / 400 + the autoencoder's weight * LPIPS
# Bits that a squared error of one step is worth, to begin with: 6 / ln 2 = 8.7 for the best quantiser of a smooth density
# (R = -log2 step, D = step**2 / 12); a little less, so that the first steps save bits and later ones spend them.
BITS_OF_A_STEP = 7.0
LPIPS_SIDE = 31  # LPIPS takes no smaller images
PROBE = 0.2  # deviation, in quantiser steps, of the noise that measures the effect of errors in latents
# Adam (Kingma and Ba, 2015), its denominator damped by this many bits a step, so that small slopes move little.
RATE, BETAS, DAMPING = 0.07, (0.8, 0.95), 5.0
FALL = 0.8  # share by which the rate has fallen at the end
# AlexNet has a stride of 4: descent would find patterns that are good at one phase only. Offsets (rows, columns).
SHIFTS = tuple((5 * i % 4, (5 * i // 4 + i) % 4) for i in range(16))
WEIGHT_RANGE = 1e6  # of its growth, which a budget that no quality fills would drive out of float32
WINDOW_LATENTS = 64  # side of a differentiated window: 1.5 GB with an earlier embedded model
BLEND_MARGIN = 8  # latents around a window of a decoder with global operations


class Refiner:
    """Refiner for one image and quality; `run` returns better latents."""

    def __init__(self, model: Model, quality_index: int, picture: Tensor, visible: tuple[int, int]) -> None:
        """Prepare for a picture `[3, H, W]` in [0, 1], padded to whole latents.

        Only its first `visible` rows and columns count.
        """
        assert isinstance(model.autoencoder, DifferentiableAutoencoder)  # checked by the mode
        self._model, self._quality_index = model, quality_index
        self._autoencoder = model.autoencoder
        self._picture, self._visible = picture, visible
        self._inverse_gain = model.quantiser.inverse_gain[quality_index][:, None, None]
        self._lpips = _lpips(picture.device)

    def run(self, latents: Tensor, iterations: int, budget: float | None = None) -> Tensor:
        """Refine latents `[C, h, w]`; return the given ones if that gains nothing.

        `budget`: expected number of bits; None for as many as the given latents take.
        """
        gain = self._model.quantiser.gain[self._quality_index][:, None, None]
        at_first, reach = latents * gain, self._autoencoder.refinement_reach
        leaf = torch.nn.Parameter(at_first.clone())
        optimiser = torch.optim.Adam([leaf], lr=RATE, betas=BETAS, eps=DAMPING)
        state = start = self._walk(leaf.detach())
        budget = max(1.0, start.bits if budget is None else budget)
        weight = start_weight = self._weight(start)
        before = 0.0
        for iteration in range(iterations):
            distortion, gradient = self._distortion(state.decoded, SHIFTS[iteration % len(SHIFTS)], gradient=True)
            if iteration == 0:
                before = distortion
            weight *= (budget / max(state.bits, 1.0)) ** 2  # distortion weighs more if bits are left
            weight = min(weight, start_weight * WEIGHT_RANGE)
            slope = self._slope_of_bits(leaf.detach(), state).add_(gradient, alpha=weight)
            leaf.grad = slope.masked_fill_(state.indices == 0, 0)  # no bits are coded there
            optimiser.param_groups[0]["lr"] = RATE * (1 - FALL * iteration / iterations)
            optimiser.step()
            leaf.data.clamp_(at_first - reach, at_first + reach)
            state = self._walk(leaf.detach())
        # At the phase of the first distortion.
        after, _ = self._distortion(state.decoded, SHIFTS[0], gradient=False)
        gained = start_weight * (before - after) + start.bits - state.bits
        return leaf.detach() / gain if gained > 0 else latents

    def _walk(self, scaled_latents: Tensor) -> Recorded:
        """Quantise as the encoder will."""
        return record(self._model, scaled_latents, self._quality_index)

    def _slope_of_bits(self, scaled: Tensor, state: Recorded) -> Tensor:
        """Return the derivative of the bits, `[C, h, w]`, per quantiser step.

        It is that of the expected cost with uniform noise before rounding, for which it is exact: with u uniform in
        ±1/2 the symbol is floor or ceiling of the distance, with the fraction as the probability, so that the
        expectation is piecewise linear through the table's own costs.
        """
        away = scaled - state.means
        further = further_bits(self._model.prior.tables, scaled.device)
        ceiling = away.abs().floor_().long().add_(1).clamp_(max=further.shape[1] - 1)
        return further[state.indices, ceiling].mul_(away.sign())

    def _weight(self, state: Recorded) -> float:
        """Return the bits that a unit of distortion is worth.

        It follows from the change of the decoded image by noise in the coded latents.
        """
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(state.decoded.shape, generator=generator, dtype=torch.float32).to(state.decoded.device)
        noise.mul_(PROBE).masked_fill_(state.indices == 0, 0)
        change = 0.0
        with torch.no_grad():
            for window in self._windows(state.decoded):
                still, _ = self._seen(state.decoded, window)
                moved, _ = self._seen(state.decoded + noise, window)
                change += float(self._measured(moved, still, (0, 0)))
        return BITS_OF_A_STEP * float(noise.square().sum()) / max(change, 1e-12)

    def _distortion(self, decoded: Tensor, shift: tuple[int, int], *, gradient: bool) -> tuple[float, Tensor]:
        """Return the distortion of the image decoded from `[C, h, w]`, and its gradient.

        The distortion is summed over pixels. `shift`: rows and columns that LPIPS leaves out at the top and at the
        left.
        """
        leaf = decoded.detach().clone().requires_grad_(gradient)
        total = 0.0
        with torch.set_grad_enabled(gradient):
            for window in self._windows(decoded):
                shown, original = self._seen(leaf, window)
                distortion = self._measured(shown, original, shift)
                if gradient:
                    distortion.backward()  # type: ignore[no-untyped-call]
                total += float(distortion.detach())
        return total, torch.zeros_like(decoded) if leaf.grad is None else leaf.grad

    def _measured(self, shown: Tensor, original: Tensor, shift: tuple[int, int]) -> Tensor:
        """Return MSE and LPIPS of `[1, 3, H, W]`, times the number of pixels."""
        top, left = (min(by, side - LPIPS_SIDE) for by, side in zip(shift, shown.shape[2:], strict=True))
        lpips = self._lpips(shown[:, :, top:, left:], original[:, :, top:, left:]).mean()
        error = MSE_SCALE * (shown - original).square().mean() + self._autoencoder.refinement_lpips * lpips
        return error * (shown.shape[2] * shown.shape[3])

    def _seen(self, decoded: Tensor, window: tiling.Window) -> tuple[Tensor, Tensor]:
        """Return a window of the decoded image and of the original, `[1, 3, H, W]`.

        Both are equal outside of the visible part.
        """
        w, f = window, self._autoencoder.factor
        part = (decoded * self._inverse_gain)[None, :, w.seen_top : w.seen_bottom, w.seen_left : w.seen_right]
        whole = self._autoencoder.decode_with_gradient(part, self._quality_index)
        top, left = f * (w.top - w.seen_top), f * (w.left - w.seen_left)
        height, width = f * (w.bottom - w.top), f * (w.right - w.left)
        shown = whole[:, :, top : top + height, left : left + width]
        original = self._picture[None, :, f * w.top : f * w.bottom, f * w.left : f * w.right]
        rows, columns = self._visible[0] - f * w.top, self._visible[1] - f * w.left
        if rows < height or columns < width:
            hidden = torch.ones_like(original[:, :1], dtype=torch.bool)
            hidden[:, :, : max(rows, 0), : max(columns, 0)] = False
            shown = torch.where(hidden, original, shown)
        return shown, original

    def _windows(self, decoded: Tensor) -> Iterator[tiling.Window]:
        margin = self._autoencoder.margin
        return tiling.windows(
            decoded.shape[1], decoded.shape[2], WINDOW_LATENTS, BLEND_MARGIN if margin is None else margin
        )


@lru_cache(maxsize=2)
def _lpips(device: torch.device) -> LPIPS:
    return LPIPS().to(device)
