"""Complexity of a model: multiply–accumulate operations per pixel of each network."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from sdcodec.training.model import TrainingModel

SIDE = 256  # pixels; the counts per pixel do not depend on it


@torch.no_grad()
def kmac_per_pixel(model: TrainingModel) -> dict[str, float]:
    """Count multiply–accumulate operations per pixel, in thousands.

    Returns encoder, decoder and prior. The prior includes the analysis of hyper-latents. The counter is PyTorch's
    FlopCounterMode; it counts convolutions and matrix products.
    """
    device = next(model.parameters()).device
    images = torch.zeros(1, 3, SIDE, SIDE, device=device)
    quality = torch.full((1,), 50.0, device=device)
    counter = FlopCounterMode(display=False)
    counts: dict[str, float] = {}

    def count(name: str, before: int) -> int:
        total = counter.get_total_flops()
        counts[name] = round((total - before) / 2 / SIDE**2 / 1000, 1)
        return total

    was_training = model.training
    model.eval()
    with counter:
        latents = model.encoder(images)
        total = count("encoder", 0)
        model.prior(latents, quality)
        total = count("prior", total)
        model.decoder(latents, model.decoder_bias(quality))
        count("decoder", total)
    model.train(was_training)
    return {name: counts[name] for name in ("encoder", "decoder", "prior")}
