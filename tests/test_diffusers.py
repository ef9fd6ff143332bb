"""Diffusers' autoencoders as models (one file: its models are slow to make).

Their random weights were written by `save_pretrained`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pipelines
import reference_decoder
import sdcodec
from conftest import photograph
from sdcodec import windowed
from sdcodec.autoencoders.diffusers import running_dtype
from sdcodec.bundles import calibration, importing, store
from sdcodec.constants import QUALITY_LEVELS
from sdcodec.container import Container
from sdcodec.errors import BundleError, FormatError

CPU = torch.device("cpu")
GEOMETRY = {
    "sd1": (4, 8),
    "sdxl": (4, 8),
    "flux": (16, 8),
    "normalised": (4, 8),
    "taesd": (4, 8),
    "dc": (8, 32),
    "flux2": (32, 16),
}
families = pytest.mark.parametrize("family", GEOMETRY)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Make a home for models with one of each family; their folders are gone."""
    home = tmp_path_factory.mktemp("home")
    sources = tmp_path_factory.mktemp("sources")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDCODEC_HOME", str(home))
        for family in GEOMETRY:
            source = pipelines.autoencoder_folder(family, sources / family)
            importing.add(family, str(source))
    return home


@pytest.fixture(scope="session")
def codecs(home):
    return {family: sdcodec.Codec(home / family, device="cpu", precision="float32") for family in GEOMETRY}


@families
def test_files_there_and_back(codecs, home, family, monkeypatch):
    monkeypatch.setenv("SDCODEC_HOME", str(home))
    codec, (channels, factor) = codecs[family], GEOMETRY[family]
    encoded = codec.encode(photograph(70, 90), quality=60)
    assert Container.from_bytes(encoded.data).header.factor == factor
    symbols = codec.symbols(encoded.data)
    assert symbols.shape[0] == channels and symbols.any()
    assert symbols.shape[1] % 4 == symbols.shape[2] % 4 == 0 and symbols.shape[1] * factor >= 70
    image = sdcodec.decode(encoded.data, device="cpu", precision="float32")  # the model is found by the fingerprint
    assert image.size == (90, 70)
    assert np.array_equal(np.asarray(image), np.asarray(codec.decode(encoded.data)))


@families
def test_latents_are_those_that_the_family_s_unet_knows(codecs, family):
    """Compare with diffusers' pipelines: `image_processor`, `encode`, and scaling."""
    network = pipelines.network(family)
    images = torch.from_numpy(photograph(64, 64)).permute(2, 0, 1)[None].float() / 255
    config = network.config
    with torch.no_grad():
        output = network.encode(2 * images - 1)
        if family == "flux2":
            patches = F.pixel_unshuffle(output.latent_dist.mode(), 2)
            expected = F.batch_norm(patches, network.bn.running_mean, network.bn.running_var, eps=config.batch_norm_eps)
        elif family == "taesd":
            expected = output.latents
        elif family == "dc":
            expected = output.latent * config.scaling_factor
        elif family == "normalised":
            mean, deviation = (torch.tensor(v)[:, None, None] for v in (config.latents_mean, config.latents_std))
            expected = (output.latent_dist.mean - mean) * config.scaling_factor / deviation
        else:
            expected = (output.latent_dist.mean - (config.shift_factor or 0)) * config.scaling_factor
    found = codecs[family]._model.autoencoder.encode(images)
    assert torch.allclose(found, expected, atol=1e-5)


@families
def test_decoding_undoes_the_scaling(codecs, family):
    network, autoencoder = pipelines.network(family), codecs[family]._model.autoencoder
    images = torch.from_numpy(photograph(128, 128)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        output = network.encode(2 * images - 1)
        raw = next(getattr(output, name) for name in ("latent_dist", "latents", "latent") if hasattr(output, name))
        raw = raw.mode() if hasattr(raw, "mode") and not isinstance(raw, torch.Tensor) else raw
        expected = (network.decode(raw).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(autoencoder.decode(autoencoder.encode(images), 100), expected, atol=1e-4)


@families
def test_quality_orders_sizes_and_errors(codecs, family):
    codec, picture = codecs[family], sdcodec.codec.read_picture(photograph(128, 128))
    [latents] = codec._latents([picture])
    sizes, errors = [], []
    for quality in (0, 25, 50, 75, 100):
        data = codec.encode(picture.rgb, quality=quality).data
        sizes.append(len(data))
        seen = codec._decoded_latents([Container.from_bytes(data)])[0]
        weights = codec._model.quantiser.gain[100][:, None, None]  # how much each channel matters
        errors.append(float(((seen - latents) * weights).square().mean()))
    assert sizes == sorted(sizes) and sizes[-1] > 2 * sizes[0]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 50


@pytest.mark.parametrize("family", ["sd1", "taesd", "dc", "flux2"])
def test_budgets_are_met_and_used(codecs, family):
    codec, pixels = codecs[family], photograph(128, 128)
    low, high = (len(codec.encode(pixels, quality=quality).data) for quality in (0, 100))
    target = (low + high) // 2
    encoded = codec.encode(pixels, target_bytes=target)
    assert 0.9 * target < len(encoded.data) <= target


def test_symbols_are_the_same_in_another_process_with_other_threads(codecs, home, tmp_path):
    """Decoded from the file alone, and encoded by the model alone: equal digests."""
    expected = {}
    for family, codec in codecs.items():
        data = codec.encode(photograph(70, 90), quality=60).data
        (tmp_path / f"{family}.sdc").write_bytes(data)
        expected[family] = codec.symbols_sha256(data)
    program = (
        "import json, sys, pathlib, torch, sdcodec\n"
        "torch.set_num_threads(int(sys.argv[1]))\n"
        "files = {path.stem: path.read_bytes() for path in pathlib.Path(sys.argv[2]).glob('*.sdc')}\n"
        "digests = {n: sdcodec.Codec.for_file(d, device='cpu').symbols_sha256(d) for n, d in files.items()}\n"
        "print(json.dumps(digests))"
    )
    threads = "1" if torch.get_num_threads() > 1 else "2"
    done = subprocess.run(
        [sys.executable, "-c", program, threads, str(tmp_path)],
        env={**os.environ, "SDCODEC_HOME": str(home)},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == expected


def test_the_same_model_added_again_reads_the_same_files(codecs, tmp_path, monkeypatch):
    monkeypatch.setenv("SDCODEC_HOME", str(tmp_path))
    source = pipelines.autoencoder_folder("taesd", tmp_path / "source")
    with torch.backends.mkldnn.flags(enabled=False):  # other kernels, other last digits
        again = importing.add("again", str(source))
    assert again.priors[0].fingerprint[:4] == codecs["taesd"].fingerprint


# Windows


def use_windows(monkeypatch, factor, size, fade=2):
    """Use windows of `size` latents instead of 768 pixels."""
    monkeypatch.setattr(windowed, "BLENDED_PIXELS", size * factor)
    monkeypatch.setattr(windowed, "FADE_PIXELS", fade * factor)
    monkeypatch.setattr(windowed, "GUARD_PIXELS", min(fade, 1) * factor)


def seam(found, whole):
    """Return the largest jump of the error between columns, averaged over the rows."""
    error = found.astype(float) - whole
    return np.abs(np.diff(error, axis=2)).mean((0, 1, 3)).max()


@pytest.mark.parametrize(("family", "size"), [("sd1", 24), ("flux2", 24), ("dc", 12)])
def test_windows_fade_into_each_other(codecs, family, size, monkeypatch):
    """Normalisation sees only a window, so results differ; but there is no seam."""
    autoencoder = codecs[family]._model.autoencoder
    f = autoencoder.factor
    pixels = photograph(size * f, 2 * size * f)[None]
    use_windows(monkeypatch, f, 1000)
    latents = windowed.encode(autoencoder, pixels, CPU)
    whole = windowed.decode(autoencoder, latents, 100)
    use_windows(monkeypatch, f, size, fade=size // 12)
    parts = windowed.encode(autoencoder, pixels, CPU)
    assert 0 < (parts - latents).square().mean() < 0.2 * latents.var()
    faded = seam(windowed.decode(autoencoder, latents, 100), whole)
    use_windows(monkeypatch, f, size, fade=0)
    assert faded < 0.6 * seam(windowed.decode(autoencoder, latents, 100), whole)


def test_windows_of_working_autoencoders_leave_no_seam(monkeypatch):
    """With global normalisation, jumps at the seam hardly exceed those elsewhere."""

    class Autoencoder:
        channels, factor, margin = 48, 8, None

        def encode(self, images):
            return F.pixel_unshuffle(F.avg_pool2d(images, 2), 4)

        def decode(self, latents, quality_index):
            images = F.interpolate(F.pixel_shuffle(latents, 4), scale_factor=2, mode="bilinear", antialias=True)
            return (0.8 * images + 0.2 * (0.5 + 0.25 * F.group_norm(images, 1))).clamp(0, 1)

    pixels = photograph(160, 384)[None]
    latents = windowed.encode(Autoencoder(), pixels, CPU)
    whole = windowed.decode(Autoencoder(), latents, 100)
    use_windows(monkeypatch, 8, 24)
    faded = windowed.decode(Autoencoder(), latents, 100)
    median = np.median(np.abs(np.diff(faded.astype(float) - whole, axis=2)).mean((0, 1, 3)))
    assert seam(faded, whole) < 2 * median
    use_windows(monkeypatch, 8, 24, fade=0)
    assert seam(windowed.decode(Autoencoder(), latents, 100), whole) > 4 * median


def test_windows_leave_no_trace_in_convolutions_alone(codecs, monkeypatch):
    codec = codecs["taesd"]
    assert codec._model.autoencoder.margin is not None
    picture = sdcodec.codec.read_picture(photograph(352, 288))
    [latents] = codec._latents([picture])
    whole = windowed.decode(codec._model.autoencoder, latents[None], 100).astype(int)
    monkeypatch.setattr(windowed, "WINDOW_PIXELS", 128)
    assert (codec._latents([picture])[0] - latents).abs().max() < 1e-5
    parts = windowed.decode(codec._model.autoencoder, latents[None], 100).astype(int)
    assert np.abs(parts - whole).max() <= 1


def test_no_network_sees_more_than_a_window_of_a_large_picture(codecs, monkeypatch):
    seen: list[int] = []
    autoencoder = codecs["dc"]._model.autoencoder

    class Watched:
        channels, factor, margin = autoencoder.channels, autoencoder.factor, None

        def encode(self, images):
            seen.append(max(images.shape[2:]))
            return torch.zeros(len(images), self.channels, *(side // self.factor for side in images.shape[2:]))

        def decode(self, latents, quality_index):
            seen.append(self.factor * max(latents.shape[2:]))
            return torch.full((len(latents), 3, *(side * self.factor for side in latents.shape[2:])), 0.502)

    latents = windowed.encode(Watched(), np.zeros((1, 1024, 6016, 3), np.uint8), CPU)
    pixels = windowed.decode(Watched(), latents, 100)
    assert pixels.shape == (1, 1024, 6016, 3) and (pixels == 128).all()
    assert max(seen) <= windowed.BLENDED_PIXELS


# Precision


def test_sdxl_runs_in_float32_where_float16_would_overflow(home):
    assert store.read_manifest(home / "sdxl").configuration["force_upcast"] is True
    assert sdcodec.Codec(home / "sdxl", device="cpu", precision="float16")._model.autoencoder.dtype == torch.float32
    assert sdcodec.Codec(home / "sdxl", device="cpu", precision="bfloat16")._model.autoencoder.dtype == torch.bfloat16
    cuda = torch.device("cuda")
    assert running_dtype(torch.float16, cuda, force_upcast=True) == torch.float32
    assert running_dtype(torch.bfloat16, cuda, force_upcast=True) == torch.bfloat16
    assert running_dtype(torch.float16, cuda, force_upcast=False) == torch.float16


def test_who_does_not_ask_for_float32_does_not_get_it(tmp_path, monkeypatch):
    """Stable Diffusion 1.x is older than `force_upcast`, and does not overflow."""
    monkeypatch.setenv("SDCODEC_HOME", str(tmp_path / "home"))
    folder = pipelines.autoencoder_folder("taesd", tmp_path / "source")
    config = json.loads((folder / "config.json").read_text())
    config.pop("force_upcast", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert importing.add("old", str(folder)).configuration["force_upcast"] is False


def test_weights_are_stored_as_they_were_or_as_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("SDCODEC_HOME", str(tmp_path / "home"))
    pipelines.network("flux2").to(torch.bfloat16).save_pretrained(tmp_path / "half")
    pipelines.autoencoder_folder("flux2", tmp_path / "single")
    kept = importing.add("kept", str(tmp_path / "half"))
    asked = importing.add("asked", str(tmp_path / "single"), dtype="float16")
    assert (kept.description["dtype"], asked.description["dtype"]) == ("bfloat16", "float16")
    for bundle, dtype in ((kept, torch.bfloat16), (asked, torch.float16)):
        from safetensors.torch import load_file

        weights = load_file(bundle.folder / "autoencoder.safetensors")
        assert weights["decoder.conv_in.weight"].dtype == dtype
        assert weights["bn.running_var"].dtype == torch.float32
        codec = sdcodec.Codec(bundle.folder, device="cpu")
        assert codec.decode(codec.encode(photograph(64, 64)).data).size == (64, 64)


def test_values_that_are_no_numbers_are_an_error_not_a_picture(home, tmp_path):
    own = shutil.copytree(home / "sd1", tmp_path / "own")  # weights of one folder are shared
    codec = sdcodec.Codec(own, device="cpu", precision="float32")
    codec._model.autoencoder._family.network.encoder.conv_in.weight.fill_(float("inf"))
    with pytest.raises(BundleError, match="overflow in float32"):
        codec.encode(photograph(64, 64))


# Calibration


def test_steps_follow_what_the_decoder_is_sensitive_to():
    random = np.random.default_rng(0)
    statistics = calibration.Statistics(random.standard_normal((3, 4096)), np.array([0.5, 1.0, 4.0]))
    gain, inverse = calibration.gain_rows(statistics, 8)
    assert gain.shape == inverse.shape == (QUALITY_LEVELS, 3)
    assert torch.allclose(gain[:, 0] / gain[:, 1], torch.tensor(0.5), rtol=1e-3)
    assert torch.allclose(gain[:, 2] / gain[:, 1], torch.tensor(4.0), rtol=1e-3)
    assert torch.allclose(gain * inverse, torch.tensor(1.0), rtol=1e-6)
    ratios = gain[1:] / gain[:-1]
    assert (ratios > 1).all() and (ratios / ratios.mean() - 1).abs().max() < 2e-3


def test_steps_do_not_change_with_the_last_digits():
    random = np.random.default_rng(0)
    latents, sensitivity = random.standard_normal((4, 4096)), np.array([0.31, 1.07, 0.77, 2.5])
    expected, _ = calibration.gain_rows(calibration.Statistics(latents, sensitivity), 8)
    noise = 1 + 1e-5 * random.standard_normal((4, 4096))
    found, _ = calibration.gain_rows(calibration.Statistics(latents * noise, sensitivity * noise[:, 0]), 8)
    assert torch.equal(found, expected)


def test_the_sensitivity_is_the_norm_of_the_jacobian_s_columns():
    class Linear:
        def unclamped(self, latents):
            return F.pixel_shuffle(torch.cat([latents[:, :1] * 0.5, latents[:, 1:] * 3], 1).repeat(1, 6, 1, 1), 2)

    found = calibration._squared_columns(Linear(), torch.zeros(1, 2, 64, 64)).sqrt()
    assert torch.allclose(found, torch.tensor([0.5, 3.0]) * 6**0.5, rtol=0.05)


def test_photographs_of_the_user_can_be_measured(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("SDCODEC_HOME", str(tmp_path / "home"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    Image.fromarray(photograph(100, 100)).save(tmp_path / "photos" / "small.png")
    source = pipelines.autoencoder_folder("taesd", tmp_path / "source")
    with pytest.raises(sdcodec.ImageError, match="no photographs of 256"):
        importing.add("mine", str(source), calibrate=tmp_path / "photos")
    for seed in range(2):
        Image.fromarray(photograph(300, 260, seed)).save(tmp_path / "photos" / f"{seed}.png")
    bundle = importing.add("mine", str(source), calibrate=tmp_path / "photos")
    assert bundle.description["calibration"] == "2 photographs of the user"


# The specification


@pytest.mark.parametrize("family", ["sd1", "flux2"])
def test_the_fingerprint_names_the_geometry(home, family):
    from safetensors.torch import load_file

    from sdcodec.bundles.loading import fingerprint

    tensors, (channels, factor) = load_file(home / family / "prior.safetensors"), GEOMETRY[family]
    found = store.read_manifest(home / family).priors[0].fingerprint
    assert fingerprint(tensors, channels, factor) == found
    assert fingerprint(tensors, channels, 4) != found


def test_the_second_decoder_reads_the_geometry(codecs):
    data = codecs["dc"].encode(photograph(300, 140)).data
    factor, _, width, height, *_ = reference_decoder.parse(data)
    assert (factor, width, height) == (32, 140, 300)


def test_a_file_with_another_geometry_than_its_model_is_damaged(codecs):
    container = Container.from_bytes(codecs["dc"].encode(photograph(64, 64)).data)
    header = container.header.__class__(container.header.fingerprint, 100, 64, 64, factor=16)
    with pytest.raises(FormatError, match="latents at 1/16 of the size"):
        codecs["dc"].decode(Container(header, container.blocks).to_bytes())


def test_a_bundle_whose_weights_are_of_another_network_is_refused(home, tmp_path):
    import shutil

    folder = tmp_path / "mixed"
    shutil.copytree(home / "sd1", folder)
    shutil.copyfile(home / "taesd" / "autoencoder.safetensors", folder / "autoencoder.safetensors")
    with pytest.raises(BundleError, match="do not fit"):
        sdcodec.Codec(folder)
    manifest = json.loads((Path(home) / "sd1" / "bundle.json").read_text())
    manifest["autoencoder"]["configuration"]["family"] = "AutoencoderKLWan"
    shutil.copyfile(home / "sd1" / "autoencoder.safetensors", folder / "autoencoder.safetensors")
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"AutoencoderKLWan.*AutoencoderKL, AutoencoderTiny"):
        sdcodec.Codec(folder)
