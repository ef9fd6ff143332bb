"""Realism of the decoder, and its reduced heads."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import SMALL
from sdcodec.autoencoders.conv import ConvConfig, ConvDecoder, between
from sdcodec.autoencoders.conv_autoencoder import ConvAutoencoder
from sdcodec.bundles import loading, shared, store
from sdcodec.bundles.writing import set_default_realism
from sdcodec.errors import BundleError
from test_bundles import change

VIVID = replace(SMALL, realism=1, reduced=1)
CPU = torch.device("cpu")


def autoencoder(folder: Path, dtype: torch.dtype = torch.float32) -> ConvAutoencoder:
    found = loading.load_autoencoder(store.read_manifest(folder), CPU, dtype)
    assert isinstance(found, ConvAutoencoder)
    return found


def decoder_inputs(batch: int = 2) -> tuple[Tensor, Tensor]:
    """Latents and bias for the quality, random."""
    torch.manual_seed(3)
    return torch.randn(batch, SMALL.latent_channels, 4, 5), torch.randn(batch, SMALL.decoder_width_8)


def test_weights_are_linear_between_two_decoders() -> None:
    faithful, vivid = ConvDecoder(VIVID), ConvDecoder(SMALL)
    expected, others = dict(faithful.named_parameters()), dict(vivid.named_parameters())
    for realism in (0.0, 0.25, 1.0):
        weights = between(faithful, vivid, realism)
        assert weights.keys() == others.keys()
        for name, weight in weights.items():
            linear = (1 - realism) * expected[name] + realism * others[name]
            assert torch.allclose(weight, linear, atol=1e-6)


def test_a_realism_is_a_decoder_of_weights_between(vivid_bundle: Path) -> None:
    found, latents = autoencoder(vivid_bundle), decoder_inputs()[0]
    own = ConvDecoder(SMALL)
    faithful, vivid = found.decoder.state_dict(), found.vivid.state_dict()  # type: ignore[union-attr]
    own.load_state_dict({name: 0.7 * faithful[name] + 0.3 * value for name, value in vivid.items()})
    bias = found.quality_bias[100].expand(len(latents), -1)
    expected = own(latents, bias).clamp(0, 1)
    assert torch.allclose(found.with_realism(0.3).decode(latents, 100), expected, atol=1e-5)


def test_a_realism_of_a_realism_is_that_of_the_model(vivid_bundle: Path) -> None:
    found, latents = autoencoder(vivid_bundle), decoder_inputs()[0]
    again = found.with_realism(0.3).with_realism(1).with_realism(0.6)
    assert torch.equal(again.decode(latents, 100), found.with_realism(0.6).decode(latents, 100))


@pytest.mark.parametrize("scale", [8, 4])
def test_reduced_images_begin_as_the_mean_of_the_linear_path(scale: int) -> None:
    decoder = ConvDecoder(VIVID).eval()
    latents, quality_bias = decoder_inputs()
    with torch.no_grad():
        for layer in (decoder.exit, decoder.up_2):  # the whole image is then the linear path's
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        whole = decoder(latents, quality_bias)
        reduced = decoder.reduced(latents, quality_bias, scale)
    assert reduced.shape == (2, 3, 8 * 4 // scale, 8 * 5 // scale)
    assert torch.allclose(reduced, F.avg_pool2d(whole, scale), atol=1e-6)


def test_reduced_heads_see_features() -> None:
    decoder = ConvDecoder(VIVID)
    decoder.reduced(*decoder_inputs(), 8).square().sum().backward()
    assert decoder.head_8.weight.grad is not None and bool((decoder.head_8.weight.grad != 0).any())


def test_reduced_images_are_faithful(vivid_bundle: Path) -> None:
    found, latents = autoencoder(vivid_bundle), decoder_inputs()[0]
    assert torch.equal(found.with_realism(1).decode_reduced(latents, 50, 4), found.decode_reduced(latents, 50, 4))


def test_configuration_refuses_other_numbers() -> None:
    with pytest.raises(ValueError, match="realism is 2, not 0 or 1"):
        ConvConfig(realism=2)


def test_manifests_of_plain_decoders_stay_as_they_were() -> None:
    assert "realism" not in SMALL.stored() and "reduced" not in SMALL.stored()
    assert VIVID.stored() == SMALL.stored() | {"realism": 1, "reduced": 1}


def test_bundle_decodes_with_its_default(vivid_bundle: Path, random_bundle: Path) -> None:
    vivid, latents = autoencoder(vivid_bundle), decoder_inputs()[0]
    assert vivid.realism == 0.5 and autoencoder(random_bundle).realism is None
    default = vivid.decode(latents, 100)
    assert torch.equal(default, vivid.with_realism(0.5).decode(latents, 100))
    faithful, most = (vivid.with_realism(beta).decode(latents, 100) for beta in (0.0, 1.0))
    assert not torch.allclose(faithful, most) and not torch.allclose(default, most)
    assert vivid.realism == 0.5  # with_realism leaves it as it is


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reduced_images_are_close_in_each_precision(vivid_bundle: Path, dtype: torch.dtype) -> None:
    latents = decoder_inputs()[0]
    exact = autoencoder(vivid_bundle).decode_reduced(latents, 100, 8)
    found = autoencoder(vivid_bundle, dtype).decode_reduced(latents, 100, 8)
    assert found.dtype == torch.float32 and 0 <= float(found.min()) <= float(found.max()) <= 1
    assert torch.allclose(found, exact, atol=0.03)


def test_changed_default_is_seen_by_the_next_codec(vivid_bundle: Path, tmp_path: Path) -> None:
    bundle = store.read_manifest(shutil.copytree(vivid_bundle, tmp_path / "copy"))
    before = shared.load(bundle, bundle.priors[0], CPU, torch.float32)
    changed = set_default_realism(bundle, 0.25)
    after = shared.load(changed, changed.priors[0], CPU, torch.float32)
    assert (before.autoencoder.realism, after.autoencoder.realism) == (0.5, 0.25)  # type: ignore[attr-defined]


def test_default_realism_is_checked(vivid_bundle: Path, random_bundle: Path, tmp_path: Path) -> None:
    vivid = Path(shutil.copytree(vivid_bundle, tmp_path / "vivid"))
    for value in (1.5, -0.1, float("nan"), True, "0.5"):
        change(vivid, "autoencoder", default_realism=value)
        with pytest.raises(BundleError, match=r"bundle\.json: default_realism .*; install the model again"):
            store.read_manifest(vivid)
    change(vivid, "autoencoder", default_realism=None)
    with pytest.raises(BundleError, match=r"default_realism None: the decoder's is missing"):
        store.read_manifest(vivid)
    plain = Path(shutil.copytree(random_bundle, tmp_path / "plain"))
    with pytest.raises(BundleError, match="the decoder has no realism"):
        set_default_realism(store.read_manifest(plain), 0.5)
    change(plain, "autoencoder", default_realism=0.5)
    with pytest.raises(BundleError, match=r"default_realism 0\.5: the decoder has no realism"):
        store.read_manifest(plain)


def test_missing_weights_are_named(random_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(random_bundle, tmp_path / "copy"))
    change(folder, "autoencoder", "configuration", realism=1)
    change(folder, "autoencoder", default_realism=0.5)
    with pytest.raises(BundleError, match=r"autoencoder\.safetensors: .*'vivid\.[a-z0-9_.]+' is missing"):
        autoencoder(folder)
    change(folder, "autoencoder", "configuration", realism=2)
    with pytest.raises(BundleError, match="realism is 2, not 0 or 1"):
        autoencoder(folder)
