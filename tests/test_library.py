"""The library's surface: shared weights, threads, pickles, and the package."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import pickle
import shutil
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import sdcodec
from conftest import photograph, with_adaptive_prior
from sdcodec.bundles import loading, store


@pytest.fixture
def added(random_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the random model among the user's, called `own`."""
    monkeypatch.setenv("SDCODEC_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(random_bundle, tmp_path / "home" / "own"))


def networks(codec: sdcodec.Codec) -> tuple[int, int]:
    return id(codec._model.autoencoder), id(codec._model.prior)


# Shared weights


def test_codecs_of_one_model_share_its_weights(random_bundle: Path) -> None:
    first, second = (sdcodec.Codec(random_bundle, device="cpu", precision="float32") for _ in range(2))
    assert first._model is second._model
    other = sdcodec.Codec(random_bundle, device="cpu", precision="bfloat16")
    assert other._model.autoencoder is not first._model.autoencoder


def test_encode_and_decode_load_a_model_once(added: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = loading.read_tensors
    monkeypatch.setattr(loading, "read_tensors", lambda path: (read.append(path.name), original(path))[1])
    options = {"device": "cpu", "precision": "float32"}
    codec = sdcodec.Codec("own", **options)
    data = sdcodec.encode(photograph(64, 64), model="own", quality=20, **options)
    sdcodec.decode(data, **options)
    assert sdcodec.Codec.for_file(data, **options)._model is codec._model
    assert sorted(read) == ["autoencoder.safetensors", "prior.safetensors"]


def test_priors_of_one_model_share_its_autoencoder(added: Path) -> None:
    before = sdcodec.Codec("own", device="cpu", precision="float32")
    data = before.encode(photograph(64, 64), quality=20).data
    with_adaptive_prior(added)
    after = sdcodec.Codec("own", device="cpu", precision="float32")
    assert after.fingerprint != before.fingerprint
    assert np.array_equal(after.symbols(data), before.symbols(data))
    models = (before._model, after._model, *after._with_earlier_priors.values())
    assert len({id(own.autoencoder) for own in models}) == 1


def test_a_model_that_was_replaced_is_read_anew(added: Path) -> None:
    before = sdcodec.Codec("own", device="cpu", precision="float32")
    (added / "autoencoder.safetensors").touch()
    after = sdcodec.Codec("own", device="cpu", precision="float32")
    assert after._model.autoencoder is not before._model.autoencoder


def test_weights_that_nobody_uses_are_freed(added: Path) -> None:
    codec = sdcodec.Codec("own", device="cpu", precision="float32")
    model = weakref.ref(codec._model)
    del codec
    gc.collect()
    assert model() is None


# Threads


def test_threads_that_load_a_model_at_once_read_it_once(added: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = loading.read_tensors
    monkeypatch.setattr(loading, "read_tensors", lambda path: (read.append(path.name), original(path))[1])
    with ThreadPoolExecutor(4) as pool:
        codecs = list(pool.map(lambda _: sdcodec.Codec("own", device="cpu", precision="float32"), range(8)))
    assert len({networks(codec) for codec in codecs}) == 1
    assert sorted(read) == ["autoencoder.safetensors", "prior.safetensors"]


def test_a_codec_gives_the_same_results_in_threads(random_bundle: Path) -> None:
    codec = sdcodec.Codec(random_bundle, device="cpu", precision="float32")
    pictures = [photograph(64 + 8 * i, 96, seed=i) for i in range(6)]

    def both_ways(pixels: np.ndarray) -> tuple[bytes, bytes]:
        data = codec.encode(pixels, quality=30, effort=4).data
        return data, np.asarray(codec.decode(data)).tobytes()

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(both_ways, pictures)) == [both_ways(own) for own in pictures]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark reads memory as Linux gives it")
def test_threads_in_processes_give_the_files_and_pixels_of_one_thread(random_bundle: Path) -> None:
    """The benchmark takes 2,000 pictures and checks memory, too."""
    script = str(Path(__file__).parents[1] / "benchmarks" / "threads.py")
    options = ["--pictures", "16", "--processes", "2", "--threads", "4", "--model", str(random_bundle)]
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| 1 | 1 | 16 | 0 |" in done.stdout and "| 2 | 4 | 16 | 0 |" in done.stdout


# Pickles


def test_a_pickled_codec_is_small_and_works(added: Path) -> None:
    codec = sdcodec.Codec("own", device="cpu", precision="float32")
    stored = pickle.dumps(codec)
    assert len(stored) < 1000 and str(added).encode() not in stored
    again = pickle.loads(stored)
    picture = photograph(64, 64)
    assert again.encode(picture, quality=20).data == codec.encode(picture, quality=20).data
    assert again._model is codec._model


def test_a_codec_of_a_folder_is_pickled_with_the_folder(random_bundle: Path) -> None:
    codec = sdcodec.Codec(random_bundle, device="cpu", precision="float32")
    assert pickle.loads(pickle.dumps(codec)).fingerprint == codec.fingerprint


def test_a_pickle_of_another_model_is_refused(added: Path) -> None:
    stored = pickle.dumps(sdcodec.Codec("own", device="cpu", precision="float32"))
    with_adaptive_prior(added)
    with pytest.raises(sdcodec.BundleError, match=r"the pickled Codec had .*; install the same model"):
        pickle.loads(stored)


def test_options_are_pickled_as_they_were_given(added: Path) -> None:
    codec = sdcodec.Codec("own", device="cpu", precision="bfloat16")
    assert pickle.loads(pickle.dumps(codec))._dtype == codec._dtype


# The package


def test_an_encoded_picture_shows_its_size_and_gives_its_bytes(random_bundle: Path) -> None:
    encoded = sdcodec.Codec(random_bundle, device="cpu").encode(photograph(64, 96), quality=12.5)
    assert bytes(encoded) == encoded.data
    assert repr(encoded) == f"<Encoded: {len(encoded.data)} bytes, 96 x 64, quality 12.5>"


def test_the_version_is_that_of_the_distribution() -> None:
    assert sdcodec.__version__ == importlib.metadata.version("sdcodec")


def test_types_ship() -> None:
    assert (files("sdcodec") / "py.typed").is_file()


def test_the_package_runs_as_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sdcodec", "models", "show", store.DEFAULT, "--json"], capture_output=True, check=True
    )
    assert json.loads(done.stdout)["name"] == store.DEFAULT
