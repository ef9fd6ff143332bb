"""Bundles on disk: the manifest's configurations decide the networks.

Tensors that differ from them are refused.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import sdcodec
from conftest import SMALL, SMALL_PRIOR
from sdcodec.autoencoders.conv import FACTOR, ConvConfig
from sdcodec.bundles import store
from sdcodec.constants import ACTIVATION_LIMIT, ACTIVATION_ONE
from sdcodec.errors import BundleError
from sdcodec.priors.config import PriorConfig, tensor_shapes
from sdcodec.priors.passes import PASSES_IN_PARTS
from sdcodec.training import prior_layers
from sdcodec.training.export import prior_tensors
from sdcodec.training.prior_network import PriorNetwork


@pytest.fixture
def copied(random_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_bundle, tmp_path / "copy"))


def change(folder: Path, *keys: str | int, **values: Any) -> None:
    """Update a part of the manifest, reached by `keys`."""
    path = folder / store.MANIFEST
    manifest = json.loads(path.read_text())
    part = manifest
    for key in keys:
        part = part[key]
    part.update(values)
    path.write_text(json.dumps(manifest))


def test_defaults_are_what_ships() -> None:
    base = store.find(store.DEFAULT)
    assert base.configuration == ConvConfig().stored() | {"factor": FACTOR}
    assert base.priors[0].configuration == asdict(PriorConfig())
    assert base.priors[0].fingerprint.hex().startswith("9123a39e")


def test_the_manifest_holds_both_configurations(random_bundle: Path) -> None:
    bundle = store.read_manifest(random_bundle)
    assert bundle.configuration == SMALL.stored() | {"factor": FACTOR}
    assert bundle.priors[0].configuration == asdict(SMALL_PRIOR)
    assert (bundle.channels, bundle.factor) == (8, 8)


@pytest.mark.parametrize(
    ("name", "value", "tensor"),
    [
        ("decoder_width_2", 12, "decoder.up_2.weight"),
        ("encoder_blocks_8", 2, "encoder.blocks_8.1"),
        ("decoder_blocks_8", 0, "decoder.blocks_8.0"),
        ("encoder_width_4", 24, "encoder.entry.weight"),
    ],
)
def test_an_autoencoder_of_another_shape_is_refused(copied: Path, name: str, value: int, tensor: str) -> None:
    change(copied, "autoencoder", "configuration", **{name: value})
    with pytest.raises(BundleError, match=f"the autoencoder does not fit its configuration: .*{tensor}"):
        sdcodec.Codec(copied)


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", 20), ("blocks", 2), ("context_kernel", 3), ("passes", PASSES_IN_PARTS), ("hyper_context", 0)],
)
def test_a_prior_of_another_shape_is_refused(copied: Path, name: str, value: int) -> None:
    change(copied, "priors", 0, "configuration", **{name: value})
    with pytest.raises(BundleError, match=r"the prior does not fit its configuration: .*install the model again"):
        sdcodec.Codec(copied)


@pytest.mark.parametrize("values", [{"colour": 1}, {"width": "wide"}, {"width": True}])
def test_a_configuration_of_another_kind_is_refused(copied: Path, values: dict[str, Any]) -> None:
    change(copied, "priors", 0, "configuration", **values)
    with pytest.raises(BundleError, match="the prior's configuration"):
        sdcodec.Codec(copied)


def test_latents_of_another_shape_are_refused(copied: Path) -> None:
    change(copied, "autoencoder", "configuration", factor=16)
    with pytest.raises(BundleError, match="8 channels at 1/16, the autoencoder has 8 at 1/8"):
        sdcodec.Codec(copied)


def test_a_tensor_too_many_is_refused(copied: Path) -> None:
    path = copied / "autoencoder.safetensors"
    save_file({**load_file(path), "encoder.more": torch.zeros(1)}, path)
    with pytest.raises(BundleError, match=r"knows no tensor 'encoder\.more'"):
        sdcodec.Codec(copied)


def test_an_earlier_layout_is_refused(copied: Path) -> None:
    change(copied, layout=1)
    with pytest.raises(BundleError, match="bundle layout 1, this version reads 2; add or train the model again"):
        sdcodec.Codec(copied)


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL_PRIOR, width=24, expansion=3, blocks=0),
        replace(SMALL_PRIOR, hyper_context=0, passes=PASSES_IN_PARTS, direct_kernel=5),
        replace(SMALL_PRIOR, latent_channels=16, hyper_channels=6, middle=8, context_kernel=3),
    ],
)
def test_the_export_has_the_tensors_that_the_configuration_asks_for(config: PriorConfig) -> None:
    exported = prior_tensors(PriorNetwork(config, slope=1.0))
    assert {name: tuple(value.shape) for name, value in exported.items()} == tensor_shapes(config)


def test_the_trained_network_counts_in_the_units_of_the_integer_prior() -> None:
    assert prior_layers.ACTIVATION_UNIT * ACTIVATION_ONE == 1
    assert prior_layers.LARGEST_ACTIVATION * ACTIVATION_ONE == ACTIVATION_LIMIT
