"""Multiply–accumulate operations per pixel, against counts by hand."""

import torch

from sdcodec.autoencoders.conv import ConvConfig
from sdcodec.priors.config import PriorConfig
from sdcodec.training.complexity import kmac_per_pixel
from sdcodec.training.model import TrainingModel


def test_counts_equal_those_by_hand():
    torch.manual_seed(0)
    config = ConvConfig(
        latent_channels=8,
        encoder_width_4=16,
        encoder_blocks_4=1,
        encoder_width_8=24,
        encoder_blocks_8=2,
        decoder_width_8=32,
        decoder_blocks_8=1,
        decoder_width_4=16,
        decoder_blocks_4=1,
        decoder_width_2=8,
    )
    counts = kmac_per_pixel(TrainingModel(config, PriorConfig(latent_channels=8, width=16, middle=16)))
    # Weights of each convolution, divided by the pixels per output position.
    encoder = (48 * 16 * 9 + 2 * 16 * 16 * 9) / 16 + (16 * 24 * 16 + 4 * 24 * 24 * 9 + 24 * 8 * 9 + 192 * 8) / 64
    decoder = (8 * 32 * 9 + 2 * 32 * 32 * 9 + 32 * 64 + 8 * 192) / 64
    decoder += (2 * 16 * 16 * 9 + 16 * 32 * 9) / 16 + 8 * 12 * 9 / 4
    assert counts["encoder"] == round(encoder / 1000, 1) and counts["decoder"] == round(decoder / 1000, 1)
    assert counts["prior"] > 0


def test_the_mode_of_the_model_stays():
    model = TrainingModel(ConvConfig(latent_channels=8), PriorConfig(latent_channels=8))
    for training in (True, False):
        model.train(training)
        kmac_per_pixel(model)
        assert model.training is training and all(module.training is training for module in model.decoder.modules())
