"""The specification is complete: a decoder written from it agrees with the code.

It is tested on fresh and on golden files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import reference_decoder
import sdcodec
from conftest import photograph, save_photographs
from sdcodec.bundles import store
from sdcodec.container import Container
from sdcodec.training.prior_fit import FitConfig, fit_prior

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*/*.sdc"))
SHIPPED = sorted(path.parent for path in store.SHIPPED.glob("*/bundle.json"))


@pytest.mark.parametrize(
    ("size", "quality"), [((1, 1), 50), ((40, 64), 0), ((40, 64), 37.5), ((64, 40), 100), ((560, 520), 10)]
)
def test_a_decoder_from_the_specification_agrees(random_bundle, size, quality):
    codec = sdcodec.Codec(random_bundle, device="cpu")
    data = codec.encode(photograph(*size), quality=quality).data
    expected = codec.symbols(data)
    found = reference_decoder.decode(data, random_bundle / "prior.safetensors")
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("size", "quality"), [((1, 1), 50), ((40, 64), 0), ((64, 40), 37.5), ((40, 64), 100), ((520, 64), 30)]
)
def test_it_agrees_under_the_adaptive_prior(adaptive_bundle, size, quality):
    codec = sdcodec.Codec(adaptive_bundle, device="cpu")
    data = codec.encode(photograph(*size), quality=quality).data
    prior_file = adaptive_bundle / store.read_manifest(adaptive_bundle).priors[0].file
    assert np.array_equal(reference_decoder.decode(data, prior_file), codec.symbols(data))


def test_it_agrees_under_a_fitted_prior(adaptive_bundle, tmp_path):
    save_photographs(tmp_path / "photographs", 4)
    config = FitConfig(num_steps=2, width=8, hyper_channels=4, crop=8, batch=2)
    fitted = fit_prior(store.read_manifest(adaptive_bundle), [tmp_path / "photographs"], config, only_if_better=False)
    codec = sdcodec.Codec(adaptive_bundle, device="cpu")
    data = codec.encode(photograph(40, 64), quality=60).data
    prior_file = adaptive_bundle / fitted.bundle.priors[0].file
    assert np.array_equal(reference_decoder.decode(data, prior_file), codec.symbols(data))


def test_it_agrees_on_escapes_too(random_bundle):
    """Black and white noise at the best quality has symbols far outside of the tables."""
    codec = sdcodec.Codec(random_bundle, device="cpu")
    noise = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (64, 64, 3))
    data = codec.encode(noise, quality=100).data
    assert np.array_equal(reference_decoder.decode(data, random_bundle / "prior.safetensors"), codec.symbols(data))


@pytest.mark.parametrize("folder", [None, *SHIPPED], ids=lambda folder: folder.name if folder else "random")
def test_fingerprints_are_what_the_specification_says(random_bundle, folder):
    folder = folder or random_bundle
    manifest = json.loads((folder / "bundle.json").read_text())
    channels = manifest["autoencoder"]["configuration"]["latent_channels"]
    for prior in manifest["priors"]:
        tensors = load_file(folder / prior["file"])
        digest = hashlib.sha256(f"latents {channels} at 1/8\n".encode())
        for name in sorted(tensors):
            if not name.startswith("prior.analyse") and name != "inverse_gain":
                digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}\n".encode())
                digest.update(np.ascontiguousarray(tensors[name]).tobytes())
        assert digest.hexdigest() == prior["fingerprint"]


def test_there_are_golden_files_of_every_prior_that_ships():
    shipped = [bundle for bundle in store.installed() if store.is_shipped(bundle)]
    folders = {
        f"{bundle.name}-{prior.fingerprint[: store.FINGERPRINT_BYTES].hex()}": prior
        for bundle in shipped
        for prior in bundle.priors
    }
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(folders)
    for name, prior in folders.items():
        own = [path for path in FILES if path.parent.name == name]
        assert len(own) >= 4
        written_by = {Container.from_bytes(path.read_bytes()).header.fingerprint for path in own}
        assert written_by == {prior.fingerprint[: store.FINGERPRINT_BYTES]}
        assert sorted(json.loads((GOLDEN / name / "digests.json").read_text())) == [path.name for path in own]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_golden_files_decode_to_the_same_integers_for_ever(path):
    data = path.read_bytes()
    expected = json.loads((path.parent / "digests.json").read_text())[path.name]
    assert sdcodec.Codec.for_file(data).symbols_sha256(data) == expected
    fingerprint = Container.from_bytes(data).header.fingerprint
    bundle = store.by_fingerprint(fingerprint)
    prior = bundle.prior_for(fingerprint)
    found = reference_decoder.decode(data, bundle.folder / prior.file)
    assert hashlib.sha256(found.astype("<i4").tobytes()).hexdigest() == expected
