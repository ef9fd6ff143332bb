"""New life for latent channels that a run let die: they are given the principal components of what is still missing.

A run that starts at a low rate settles on the few channels that pay there; the others fade to zero and, without a
gradient, stay there when higher rates are opened. This fits their encoder rows to the residual's components, with the
gains that the theory of uniform quantisation at high rates gives, and lets training go on from there. Where the networks have
direct paths beside them, the components go along these, and the decoder adds them to its picture at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sdcodec.autoencoders.tiny import DIRECT_UNIT, FACTOR
from sdcodec.training.model import TrainingModel, beta_of
from sdcodec.training.prior_network import SCALE_MIN, SCALE_RATIO

ALIVE_SHARE = 0.01  # of symbols that differ from their prediction at quality 100
RIDGE = 1e-3
PERCEPTUAL_FACTOR = 2.0  # LPIPS asks for about as much precision again as the squared error


@torch.no_grad()
def revive_channels(model: TrainingModel, images: Tensor) -> int:
    """Re-initialises dead channels in place from `images` `[N, 3, H, W]` in [0, 1]; returns how many there were."""
    model.eval()
    encoder, decoder = model.encoder, model.decoder
    features, residuals, moved = [], [], []
    collected: list[Tensor] = []
    hook = encoder.exit.register_forward_hook(lambda module, inputs, output: collected.append(inputs[0].float()))
    for batch in images.split(8):
        output = model(batch, torch.full((batch.shape[0],), 100.0, device=batch.device))
        moved.append(((output.coded.decoded - output.coded.means).abs() > 0.5).float().mean((0, 2, 3)))
        seen = [F.unfold(collected.pop(), 3, padding=1)]
        if encoder.direct is not None:
            seen.append(F.pixel_unshuffle(2 * batch - 1, FACTOR).flatten(2))
        features.append(_rows(torch.cat(seen, 1)))
        residuals.append(_rows(F.pixel_unshuffle((batch - output.images.float()) * 255, FACTOR).flatten(2)))
    hook.remove()
    dead = torch.nonzero(torch.stack(moved).mean(0) < ALIVE_SHARE).flatten()
    if not len(dead):
        return 0
    x, y = torch.cat(features).double(), torch.cat(residuals).double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    basis = torch.linalg.eigh(y.T @ y).eigenvectors.flip(1)[:, : len(dead)]
    gram = x.T @ x
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    fitted = torch.linalg.solve(gram, x.T @ (y @ basis))
    deviation = (x @ fitted).std(0).clamp(min=1e-3)
    rows = (fitted / deviation).float()
    exit_layer, entry = encoder.exit, decoder.entry
    inner = exit_layer.weight[0].numel()
    exit_layer.weight[dead] = rows[:inner].T.reshape(len(dead), *exit_layer.weight.shape[1:])
    assert exit_layer.bias is not None
    exit_layer.bias[dead] = -(x_mean.float() @ rows)
    if encoder.direct is not None and decoder.direct is not None:
        encoder.direct.weight[dead] = rows[inner:].T[:, :, None, None]
        decoder.direct.weight[:, dead] = (basis * deviation).float()[:, :, None, None] * 2 / 255 / DIRECT_UNIT
    else:
        alive = [i for i in range(exit_layer.weight.shape[0]) if i not in set(dead.tolist())]
        entry.weight[:, dead] = 0.1 * entry.weight[:, alive].std() * torch.randn_like(entry.weight[:, dead])

    quality = torch.linspace(0, 100, model.gain.values.shape[0], device=images.device)
    # Least bpp + beta * MSE / 400 over the step of an orthonormal transform of 8x8x3 blocks: bits are -log2(step) / 64
    # a pixel, the squared error step^2 / (12 * 192).
    step = torch.sqrt(12 * 192 * 400 / (2 * 64 * math.log(2) * PERCEPTUAL_FACTOR * beta_of(quality)))
    gain = deviation.float()[None] / step[:, None]
    prior = model.prior
    model.gain.values[:, dead] = gain.log()
    model.inverse_gain.values[:, dead] = -gain.log()
    prior.context_gain.values[:, dead] = math.log(2.0) - gain.log()
    prior.mean_gain.values[:, dead] = gain.log() - math.log(2.0)
    prior.scale_base.values[:, dead] = ((0.7 * gain).clamp(min=SCALE_MIN / 2) / SCALE_MIN).log() / SCALE_RATIO
    prior.analyse_1.weight[:, dead] = 0
    channels = exit_layer.weight.shape[0]
    for step_network in prior.passes:
        if step_network.context is not None:
            step_network.context.weight[:, dead] = 0
        for row in (dead, dead + channels):
            step_network.head.weight[row] = 0
            step_network.head.bias[row] = 0
    return len(dead)


def _rows(x: Tensor) -> Tensor:
    """`[B, features, places]` → `[B * places, features]`."""
    return x.transpose(1, 2).flatten(0, 1)
