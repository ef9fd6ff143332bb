"""`models fit`: a prior learns a model's latents, and earlier files still decode."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

import sdcodec
from conftest import photograph, save_photographs
from sdcodec.autoencoders.protocol import Autoencoder
from sdcodec.bundles import store
from sdcodec.bundles.store import read_manifest
from sdcodec.coding.tables import scales
from sdcodec.constants import QUALITY_LEVELS
from sdcodec.errors import BundleError, TrainingError
from sdcodec.priors.adaptive_tables import adaptive_prior_tensors
from sdcodec.priors.learned import LearnedPrior
from sdcodec.priors.sources import Coder, Decoder
from sdcodec.training import prior_fit
from sdcodec.training.export import prior_tensors
from sdcodec.training.prior_fit import FitConfig, fit_prior, prior_config, train_prior
from sdcodec_cli.main import main

CPU = torch.device("cpu")
QUICK = FitConfig(num_steps=3, width=8, hyper_channels=4, crop=8, batch=2)


@pytest.fixture
def photographs(tmp_path):
    save_photographs(tmp_path / "photographs", 5)
    return tmp_path / "photographs"


def test_files_from_before_still_decode_and_new_ones_use_the_new_prior(adaptive_bundle, photographs):
    before = sdcodec.Codec(adaptive_bundle, device="cpu")
    data = before.encode(photograph(40, 64), quality=50).data
    digest = before.symbols_sha256(data)
    fitted = fit_prior(read_manifest(adaptive_bundle), [photographs], QUICK, only_if_better=False)
    assert [entry.kind for entry in fitted.bundle.priors] == ["learned", "adaptive", "learned"]
    assert len({entry.fingerprint for entry in fitted.bundle.priors}) == 3
    assert sdcodec.Codec.for_file(data, model=adaptive_bundle).symbols_sha256(data) == digest
    after = sdcodec.Codec(adaptive_bundle, device="cpu")
    assert after.fingerprint == fitted.bundle.priors[0].fingerprint[:4] != before.fingerprint
    own = after.encode(photograph(40, 64), quality=50).data
    alone = [np.asarray(codec.decode(file)) for codec, file in ((before, data), (after, own), (before, data))]
    together = after.decode_batch([data, own, data])
    assert all(np.array_equal(image, expected) for image, expected in zip(together, alone, strict=True))
    assert together[1].size == (64, 40)


def test_the_same_steps_give_the_same_prior(adaptive_bundle, photographs):
    results = [fit_prior(read_manifest(adaptive_bundle), [photographs], QUICK, only_if_better=False) for _ in range(2)]
    assert results[0].bundle.priors[0] == results[1].bundle.priors[0]
    assert len(results[1].bundle.priors) == 3  # not stored twice


def test_a_prior_that_is_no_better_is_not_stored(adaptive_bundle, photographs):
    fit_prior(read_manifest(adaptive_bundle), [photographs], QUICK)
    manifest = (adaptive_bundle / store.MANIFEST).read_bytes()
    with pytest.raises(TrainingError, match="left as it was"):
        fit_prior(read_manifest(adaptive_bundle), [photographs], QUICK)
    assert (adaptive_bundle / store.MANIFEST).read_bytes() == manifest


def test_an_interrupted_fit_leaves_the_model_as_it_was(adaptive_bundle, photographs, monkeypatch):
    listing = sorted(path.name for path in adaptive_bundle.iterdir())
    manifest = (adaptive_bundle / store.MANIFEST).read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prior_fit, "observed_tables", interrupted)
    with pytest.raises(SystemExit) as exit_status:
        main(["models", "fit", str(adaptive_bundle), "--images", str(photographs), "--steps", "1", "--width", "8"])
    assert exit_status.value.code == 130
    assert sorted(path.name for path in adaptive_bundle.iterdir()) == listing
    assert (adaptive_bundle / store.MANIFEST).read_bytes() == manifest


def test_too_small_pictures_are_an_error(adaptive_bundle, tmp_path):
    save_photographs(tmp_path / "small", 4, side=40)
    with pytest.raises(TrainingError, match="64 pixels"):
        fit_prior(read_manifest(adaptive_bundle), [tmp_path / "small"], QUICK)


def test_a_model_of_the_package_is_refused(photographs):
    with pytest.raises(BundleError, match="comes with sdcodec"):
        fit_prior(store.find(store.DEFAULT), [photographs], QUICK)


def test_minutes_are_kept(adaptive_bundle, photographs):
    config = FitConfig(minutes=0.05, width=8, hyper_channels=4, crop=8, batch=2)
    begun = time.monotonic()
    fitted = fit_prior(read_manifest(adaptive_bundle), [photographs], config, only_if_better=False)
    assert fitted.num_steps > QUICK.num_steps
    assert time.monotonic() - begun < 60


def test_the_command_fits_and_says_what_it_brought(adaptive_bundle, photographs, capsys):
    arguments = ["--images", str(photographs), "--steps", "2", "--width", "8", "--force"]
    with pytest.raises(SystemExit) as exit_status:
        main(["models", "fit", str(adaptive_bundle), *arguments])
    assert exit_status.value.code == 0
    identity = json.loads((adaptive_bundle / store.MANIFEST).read_text())["priors"][0]["fingerprint"]
    assert identity[:8] in capsys.readouterr().out


@pytest.mark.parametrize("channels", [4, 16, 32, 128])
def test_fitted_priors_of_every_width_code_their_latents(channels):
    """128 channels need a smaller window of context."""
    random = torch.Generator().manual_seed(0)
    latents = [torch.randn(channels, 16, 16, generator=random) for _ in range(3)]
    gain = torch.linspace(0.5, 4, QUALITY_LEVELS)[:, None].repeat(1, channels)
    config = FitConfig(num_steps=2, width=16, hyper_channels=4, crop=8, batch=2)
    network, _ = train_prior(latents, gain, config, CPU, np.inf, lambda _: None)
    _, tables = adaptive_prior_tensors(channels)
    prior = LearnedPrior(network.config, prior_tensors(network), tables, CPU)
    scaled = latents[0][None] * gain[120][:, None, None]
    coder = Coder(scaled, prior.hyper_latents(scaled, 120), tables)
    written = prior.walk((1, 16, 16), 120, coder)
    assert torch.equal(prior.walk((1, 16, 16), 120, Decoder(coder.finish(), tables, CPU)), written)
    assert prior_config(channels, config).context_kernel == (5 if channels <= 32 else 3)
    assert len(scales()) == tables.count


def test_linear_prediction_is_found_before_training():
    """The solved path explains latents that are an average of their neighbours."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 8, 34, 34, generator=random)
    latents = list(torch.nn.functional.avg_pool2d(noise, 3, stride=1) * 3)
    gain = torch.full((QUALITY_LEVELS, 8), 4.0)
    config = FitConfig(width=8, hyper_channels=4)
    network = prior_fit._initial(latents, gain, config)
    prior_fit.solve_direct(network, latents, gain, config)
    network.eval()
    with torch.no_grad():
        coded = network(torch.stack(latents) * 4, torch.full((4,), 90.0))
    residual = torch.stack(latents) * 4 - coded.means
    assert residual.square().mean() < 0.75 * (torch.stack(latents) * 4).square().mean()


def test_latents_come_from_the_middle_in_multiples_of_four(adaptive_bundle, tmp_path):
    save_photographs(tmp_path / "pictures", 4, side=100)

    class Mean(Autoencoder):
        channels, factor, margin = 3, 8, 0

        def encode(self, images):
            return torch.nn.functional.avg_pool2d(images, 8)

        def decode(self, latents, quality_index):
            raise NotImplementedError

    found = prior_fit.cached_latents(Mean(), [tmp_path / "pictures"], QUICK, CPU, np.inf, lambda _: None)
    assert [len(part) for part in found] == [3, 1]
    assert all(own.shape == (3, 12, 12) for part in found for own in part)
