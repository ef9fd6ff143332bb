"""Files of a bundle with a UNet (one file: its bundles are slow to make)."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sdcodec
from conftest import photograph
from pipelines import network
from sdcodec.bundles import importing, store, writing
from sdcodec.bundles.unet_importing import import_unet
from sdcodec.codec import read_picture
from sdcodec.container import Container
from sdcodec.denoisers import error_levels
from sdcodec.denoisers.schedule import noise_schedule
from test_cli import invoke
from unet_pipelines import FAMILIES, save_pipeline

pytest.importorskip("diffusers", reason="the extra sd is not installed")
pytest.importorskip("transformers", reason="the extra sd is not installed")

PICTURE = photograph(96, 64)
DITHERED = photograph(256, 192)  # more latents than a palette has colours
LOW, HIGHEST = 20, 100  # qualities whose error is above and below the smallest sigma


def with_unet(bundle: Path, family: str, folder: Path) -> Path:
    """Copy a bundle so that it has the UNet of a family, and another name."""
    place = Path(shutil.copytree(bundle, folder / family))
    tensors, configuration = import_unet(save_pipeline(family, folder / f"{family}-pipeline"), torch.float16)
    writing.add_denoiser(store.read_manifest(place), tensors, configuration)
    return place


@pytest.fixture(scope="module")
def bundles(random_bundle, tmp_path_factory):
    root = tmp_path_factory.mktemp("with-unets")
    return {family: with_unet(random_bundle, family, root) for family in ("sd15", "sdxl-turbo")}


@pytest.fixture(scope="module")
def codec(bundles):
    return sdcodec.Codec(bundles["sd15"], device="cpu", precision="float32")


@pytest.fixture(scope="module")
def turbo(bundles):
    return sdcodec.Codec(bundles["sdxl-turbo"], device="cpu", precision="float32")


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


class Oracle:
    """Knows the clean latents, and insists on the error that they came with."""

    def __init__(self, clean: torch.Tensor, error: torch.Tensor, first_beta: float = 0.00085) -> None:
        self.clean, self.noise = clean, error / error.square().mean().sqrt()
        self.schedule = noise_schedule({"beta_schedule": "scaled_linear", "beta_start": first_beta, "beta_end": 0.012})
        self.sigmas: list[float] = []

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        self.sigmas.append(sigma)
        return x - sigma * self.noise


@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize("quality", [0, 15, 30, 45])
def test_with_an_oracle_the_clean_latents_come_back(bundles, quality, num_steps):
    """The level comes from the chunk, exact to half a sixteenth of an octave."""
    codec = sdcodec.Codec(bundles["sd15"], device="cpu", precision="float32")
    clean = codec._latents([read_picture(PICTURE)])
    data = codec.encode(PICTURE, quality=quality).data
    container = Container.from_bytes(data)
    dequantised = codec._decoded_latents([container])
    codec.__dict__["_denoiser"] = oracle = Oracle(clean, dequantised - clean)
    better = pixels(codec.decode(data, denoise=num_steps))
    wanted = codec._pixels(clean, container.header)[0].astype(int)
    assert len(oracle.sigmas) == num_steps
    assert np.abs(better - wanted).mean() < 0.1 * np.abs(pixels(codec.decode(data)) - wanted).mean()


def test_the_measured_error_is_the_errors(codec):
    clean = codec._latents([read_picture(PICTURE)])
    for quality in (0, 50, 100):
        container = Container.from_bytes(codec.encode(PICTURE, quality=quality).data)
        seen = codec._decoded_latents([container])
        expected = (seen - clean).square().mean((0, 2, 3)).view(4, 2).mean(1).sqrt().repeat_interleave(2)
        assert codec._deviations(container) == pytest.approx(expected.double(), rel=0.023)


@pytest.mark.parametrize("family", ["sd15", "sdxl-turbo"])
def test_palette_files_are_cleaned_from_their_own_error(bundles, family):
    """The experiment of 2022 from end to end: dithering, its error, a few UNet steps."""
    codec = sdcodec.Codec(bundles[family], device="cpu", precision="float32")
    data = codec.encode(DITHERED, mode="palette").data
    container = Container.from_bytes(data)
    error = codec._decoded_latents([container]) - codec._latents([read_picture(DITHERED)])
    expected = error.square().mean((0, 2, 3)).view(4, 2).mean(1).sqrt().repeat_interleave(2)
    assert codec._deviations(container) == pytest.approx(expected.double(), rel=0.023)
    stronger = {"strength": 8.0, "seed": 3}  # the error of these small latents is below what the UNet knows
    plain, cleaned = codec.decode(data), codec.decode(data, denoise=4, **stronger)
    assert not np.array_equal(pixels(plain), pixels(cleaned))
    assert np.array_equal(pixels(cleaned), pixels(codec.decode(data, denoise=4, **stronger)))
    assert np.array_equal(pixels(plain), pixels(codec.decode(data, denoise=0, **stronger)))


def test_with_an_oracle_a_palettes_clean_latents_come_back(bundles):
    codec = sdcodec.Codec(bundles["sd15"], device="cpu", precision="float32")
    clean = codec._latents([read_picture(DITHERED)])
    data = codec.encode(DITHERED, mode="palette").data
    container = Container.from_bytes(data)
    codec.__dict__["_denoiser"] = Oracle(clean, codec._decoded_latents([container]) - clean, 1e-6)
    wanted = codec._pixels(clean, container.header)[0].astype(int)
    better, plain = (np.abs(pixels(codec.decode(data, denoise=n)) - wanted).mean() for n in (3, 0))
    assert better < 0.1 * plain


def test_batches_and_several_blocks_measure_the_same_error(codec):
    large = photograph(560, 600)
    clean = codec._latents([read_picture(large)])
    container = Container.from_bytes(codec.encode(large, quality=30).data)
    seen = codec._decoded_latents([container])
    total = float((seen - clean).square().mean().sqrt())
    assert float(codec._deviations(container).square().mean().sqrt()) == pytest.approx(total, rel=0.023)
    pictures = [photograph(64, 64, seed) for seed in range(3)]
    batch = codec.encode_batch(pictures, quality=30)
    assert [e.data for e in batch] == [codec.encode(picture, quality=30).data for picture in pictures]


@pytest.mark.parametrize(("channels", "count"), [(4, 4), (32, 4), (3, 3), (1, 1), (16, 4)])
def test_deviations_are_packed_in_a_byte_a_channel_group(channels, count):
    deviations = torch.linspace(0.001, 10, count).double()
    payload = error_levels.pack_deviations(deviations.square().repeat_interleave(-(-channels // count))[:channels])
    assert len(payload) == count == error_levels.groups(channels)
    found = error_levels.unpack_deviations(payload, channels)
    assert found == pytest.approx(deviations.repeat_interleave(-(-channels // count))[:channels], rel=0.023)


def test_extreme_deviations_are_clipped():
    assert error_levels.pack_deviations(torch.tensor([0.0, 1e-12, 1e12, 1.0])) == bytes([0, 0, 255, 192])


@pytest.mark.parametrize("payload", [b"", b"123456789"])
def test_a_damaged_chunk_is_refused(codec, payload):
    container = Container.from_bytes(codec.encode(PICTURE, quality=LOW).data)
    with pytest.raises(sdcodec.FormatError, match="deviations"):
        codec.decode(replace(container, deviations=payload).to_bytes(), denoise=1)


def test_the_chunk_costs_eight_bytes_and_only_with_a_unet(codec, random_bundle):
    plain = sdcodec.Codec(random_bundle, device="cpu", precision="float32")
    without, data = plain.encode(PICTURE, quality=LOW).data, codec.encode(PICTURE, quality=LOW).data
    assert Container.from_bytes(without).deviations is None
    assert len(data) == len(without) + 8
    assert pixels(plain.decode(data)).tolist() == pixels(codec.decode(without)).tolist()


def test_budgets_count_the_chunk(codec):
    for target in (90, 120, 200):
        assert len(codec.encode(PICTURE, target_bytes=target).data) <= target


def test_zero_steps_are_plain_decoding(codec, turbo, random_bundle):
    data = codec.encode(PICTURE, quality=LOW).data
    plain = np.asarray(sdcodec.Codec(random_bundle, device="cpu", precision="float32").decode(data))
    assert np.array_equal(np.asarray(codec.decode(data, denoise=0, strength=2.0, seed=5)), plain)
    assert np.array_equal(np.asarray(turbo.decode(data)), plain)


def test_plain_decoding_does_not_read_the_unet(bundles, tmp_path):
    place = Path(shutil.copytree(bundles["sd15"], tmp_path / "without-weights"))
    (place / writing.DENOISER_FILE).unlink()
    codec = sdcodec.Codec(place, device="cpu")
    data = codec.encode(PICTURE, quality=LOW).data
    codec.decode(data)
    with pytest.raises(sdcodec.BundleError, match=writing.DENOISER_FILE):
        codec.decode(data, denoise=1)


def test_denoising_is_the_same_each_time(codec, turbo, bundles):
    for model, family in ((codec, "sd15"), (turbo, "sdxl-turbo")):
        data = model.encode(PICTURE, quality=LOW).data
        first = pixels(model.decode(data, denoise=2, seed=3))
        torch.manual_seed(99)
        again = sdcodec.Codec(bundles[family], device="cpu", precision="float32")
        assert (pixels(again.decode(data, denoise=2, seed=3)) == first).all()
        assert (pixels(model.decode(data)) != first).any()


def test_the_seed_matters_where_noise_is_added(codec, turbo):
    for model, differs in ((turbo, True), (codec, False)):
        data = model.encode(PICTURE, quality=LOW).data
        one, other = (pixels(model.decode(data, denoise=1, seed=seed)) for seed in (1, 2))
        assert (one != other).any() == differs


def test_strength_changes_the_result(codec):
    data = codec.encode(PICTURE, quality=LOW).data
    auto, same, other, none = (pixels(codec.decode(data, denoise=1, strength=s)) for s in (None, 1.0, 3.0, 0.0))
    assert (auto == same).all() and (auto != other).any() and (none == pixels(codec.decode(data))).all()


def test_denoised_files_have_reduced_sizes(codec):
    data = codec.encode(PICTURE, quality=LOW).data
    whole = codec.decode(data, denoise=2, strength=3.0)
    assert (pixels(codec.decode(data, denoise=2, strength=3.0, scale=0.25)) == pixels(whole.reduce(4))).all()


def test_high_quality_is_left_alone(codec):
    data = codec.encode(PICTURE, quality=HIGHEST).data
    assert (pixels(codec.decode(data, denoise=4)) == pixels(codec.decode(data))).all()


def test_only_colours_change(turbo):
    """Size, alpha and metadata are the file's."""
    image = Image.fromarray(np.dstack([photograph(70, 50), photograph(70, 50, 1)[:, :, 0]]))
    exif = Image.Exif()
    exif[0x010E] = "a test"
    image.info["exif"] = exif.tobytes()
    data = turbo.encode(image, quality=LOW, metadata=frozenset({"exif"})).data
    plain, cleaned = turbo.decode(data), turbo.decode(data, denoise=1)
    assert cleaned.size == plain.size == (50, 70) and cleaned.mode == "RGBA" and cleaned.info == plain.info
    assert (pixels(cleaned)[:, :, 3] == pixels(plain)[:, :, 3]).all()
    assert (pixels(cleaned)[:, :, :3] != pixels(plain)[:, :, :3]).any()


def test_symbols_do_not_know_of_the_unet(codec, random_bundle):
    data = codec.encode(PICTURE, quality=LOW).data
    codec.decode(data, denoise=1)
    assert codec.symbols_sha256(data) == sdcodec.Codec(random_bundle, device="cpu").symbols_sha256(data)


def test_batches_are_denoised_as_single_pictures_are(turbo):
    files = [turbo.encode(photograph(64, 64, seed), quality=LOW).data for seed in range(2)]
    together = turbo.decode_batch(files, denoise=1, seed=4)
    for image, data in zip(together, files, strict=True):
        assert np.abs(pixels(image) - pixels(turbo.decode(data, denoise=1, seed=4))).max() <= 1


def test_large_pictures_are_denoised_in_windows(codec):
    """160 x 144 pixels are 20 x 18 latents; the UNet's window is 16."""
    data = codec.encode(photograph(160, 144), quality=LOW).data
    first = pixels(codec.decode(data, denoise=2))
    assert (first == pixels(codec.decode(data, denoise=2))).all() and (first != pixels(codec.decode(data))).any()


def test_a_file_from_before_the_unet_came_is_denoised(codec, random_bundle):
    """Its error is taken for what rounding leaves: step² / 12."""
    older = sdcodec.Codec(random_bundle, device="cpu", precision="float32").encode(PICTURE, quality=LOW).data
    container = Container.from_bytes(older)
    assert container.deviations is None
    step = 1 / codec._model.quantiser.gain[2 * LOW].double()
    assert codec._deviations(container).square() == pytest.approx(step**2 / 12)
    assert (pixels(codec.decode(older, denoise=1)) != pixels(codec.decode(older))).any()


def test_a_model_without_a_unet_says_how_to_get_one(random_bundle):
    codec = sdcodec.Codec(random_bundle, device="cpu")
    data = codec.encode(PICTURE, quality=LOW).data
    with pytest.raises(sdcodec.BundleError, match=r"'random' has no UNet.*models add NAME --from \S+ --unet"):
        codec.decode(data, denoise=1)


def test_a_unet_of_other_latents_is_refused(random_bundle, tmp_path):
    place = Path(shutil.copytree(random_bundle, tmp_path / "other"))
    tensors, configuration = import_unet(save_pipeline("unconditional", tmp_path / "p", channels=4), torch.float16)
    with pytest.raises(sdcodec.BundleError, match=r"4 latent channels.*has 8"):
        writing.add_denoiser(store.read_manifest(place), tensors, configuration)
    assert store.read_manifest(place).denoiser is None


def test_a_denoiser_of_an_unknown_class_is_refused(bundles, tmp_path):
    place = Path(shutil.copytree(bundles["sd15"], tmp_path / "later"))
    manifest = (place / store.MANIFEST).read_text().replace('"class": "unet"', '"class": "transformer"')
    (place / store.MANIFEST).write_text(manifest)
    codec = sdcodec.Codec(place, device="cpu")
    with pytest.raises(sdcodec.BundleError, match="'transformer'"):
        codec.decode(codec.encode(PICTURE, quality=LOW).data, denoise=1)


def test_weights_that_do_not_fit_are_refused(bundles, tmp_path):
    place = Path(shutil.copytree(bundles["sd15"], tmp_path / "torn"))
    shutil.copy(bundles["sdxl-turbo"] / writing.DENOISER_FILE, place / writing.DENOISER_FILE)
    codec = sdcodec.Codec(place, device="cpu")
    with pytest.raises(sdcodec.BundleError, match="do not fit"):
        codec.decode(codec.encode(PICTURE, quality=LOW).data, denoise=1)


def test_a_missing_package_is_named(bundles, monkeypatch):
    codec = sdcodec.Codec(bundles["sd15"], device="cpu")
    data = codec.encode(PICTURE, quality=LOW).data
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(sdcodec.BundleError, match=r"package diffusers.*'sdcodec\[sd\]'"):
        codec.decode(data, denoise=1)


def test_exhausted_memory_is_explained(bundles):
    """As PyTorch's own allocator reports it."""

    class Greedy(Oracle):
        def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
            return torch.empty(1 << 50)

    codec = sdcodec.Codec(bundles["sd15"], device="cpu")
    data = codec.encode(PICTURE, quality=LOW).data
    codec.__dict__["_denoiser"] = Greedy(torch.ones(1), torch.ones(1))
    with pytest.raises(sdcodec.NotEnoughMemoryError, match=r"not enough memory.*without denoising"):
        codec.decode(data, denoise=1)


@pytest.mark.parametrize("error", [MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")])
def test_every_kind_of_exhausted_memory_is_explained(bundles, monkeypatch, error):
    def fail(*arguments: object) -> None:
        raise error

    codec = sdcodec.Codec(bundles["sd15"], device="cpu")
    data = codec.encode(PICTURE, quality=LOW).data
    monkeypatch.setattr("sdcodec.bundles.loading.load_denoiser", fail)
    with pytest.raises(sdcodec.NotEnoughMemoryError):
        codec.decode(data, denoise=1)


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_memory_that_an_autoencoder_lacks_is_explained(bundles, monkeypatch, way):
    def fail(*arguments: object) -> torch.Tensor:
        return torch.empty(1 << 50)

    codec = sdcodec.Codec(bundles["sd15"], device="cpu")
    data = codec.encode(PICTURE, quality=LOW).data
    monkeypatch.setattr(codec._model.autoencoder, way, fail)
    with pytest.raises(sdcodec.NotEnoughMemoryError, match="smaller picture"):
        codec.encode(PICTURE) if way == "encode" else codec.decode(data)


@pytest.mark.parametrize("options", [{"denoise": -1}, {"strength": -0.5}, {"strength": float("nan")}, {"seed": -1}])
def test_options_out_of_range_are_refused(codec, options):
    with pytest.raises(sdcodec.OptionError):
        codec.decode(codec.encode(PICTURE, quality=LOW).data, **({"denoise": 1} | options))


def test_offloading_from_the_cpu_is_refused(bundles):
    with pytest.raises(sdcodec.OptionError, match="offload"):
        sdcodec.Codec(bundles["sd15"], device="cpu", offload=True)


def test_an_added_unet_can_be_read_by_others_and_keeps_the_fingerprint(bundles, random_bundle):
    place = bundles["sd15"]
    assert (place / writing.DENOISER_FILE).stat().st_mode == (place / writing.PRIOR_FILE).stat().st_mode
    assert store.read_manifest(place).priors == store.read_manifest(random_bundle).priors
    assert not list(place.glob("*.tmp"))


# The command


@pytest.fixture
def folder(bundles, random_bundle, tmp_path, monkeypatch):
    """Make a file, with the turbo bundle installed instead of the random one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bundles["sdxl-turbo"], tmp_path / "home" / "turbo")
    monkeypatch.setenv("SDCODEC_HOME", str(tmp_path / "home"))
    (tmp_path / "a.sdc").write_bytes(sdcodec.encode(PICTURE, quality=LOW, model="turbo", device="cpu"))
    return tmp_path


def decoded(*options: str) -> bytes:
    invoke("decode", "a.sdc", "-o", "a.png", "--force", "--device", "cpu", *options)
    return Path("a.png").read_bytes()


def test_the_command_denoises(folder):
    plain, cleaned = decoded(), decoded("--denoise", "1")
    assert decoded("--denoise", "0") == plain != cleaned
    assert decoded("--denoise", "1", "--strength", "auto", "--seed", "0") == cleaned
    assert decoded("--denoise", "1", "--seed", "7") != cleaned
    assert decoded("--denoise", "1", "--strength", "20") != cleaned


def test_the_library_function_denoises(folder):
    data = Path("a.sdc").read_bytes()
    decoded("--denoise", "1", "--seed", "7")
    image = sdcodec.decode(data, device="cpu", denoise=1, seed=7)
    assert np.array_equal(np.asarray(image), np.asarray(Image.open("a.png")))


@pytest.mark.parametrize(
    "options",
    [
        ("--strength", "2"),
        ("--seed", "1"),
        ("--offload",),
        ("--denoise", "-1"),
        ("--denoise", "1", "--strength", "much"),
        ("--denoise", "1", "--strength", "-1"),
    ],
)
def test_wrong_use_is_told(folder, options):
    invoke("decode", "a.sdc", "-o", "b.png", *options, status=2)
    assert not Path("b.png").exists()


def test_a_file_whose_model_has_no_unet_fails_in_one_line(folder, random_bundle):
    shutil.rmtree(folder / "home" / "turbo")
    shutil.copytree(random_bundle, folder / "home" / "random")
    invoke("decode", "a.sdc", "-o", "b.png", "--denoise", "1", status=1)
    assert not Path("b.png").exists()


def test_info_names_the_chunk(folder):
    assert "error deviation (n) 4 bytes" in invoke("info", "a.sdc")


# From a pipeline's folder to a picture


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_from_its_folder_to_a_denoised_picture(family, tmp_path, monkeypatch):
    """Text encoders are not stored, and transformers is not imported afterwards."""
    monkeypatch.setenv("SDCODEC_HOME", str(tmp_path / "home"))
    folder = save_pipeline(family, tmp_path / family, channels=4)
    network("sd1").save_pretrained(folder / "vae")
    bundle = importing.add("whole", str(folder), unet=True)
    assert sorted(path.suffix for path in bundle.folder.iterdir()) == [".json"] + [".safetensors"] * 3
    shutil.rmtree(folder)
    monkeypatch.setitem(sys.modules, "transformers", None)
    codec = sdcodec.Codec("whole", device="cpu", precision="float32")
    data = codec.encode(PICTURE, quality=LOW).data
    # Strength, because the latents of a random VAE are small, and their error is below the smallest sigma.
    plain, cleaned = pixels(codec.decode(data)), pixels(codec.decode(data, denoise=2, strength=50))
    assert cleaned.shape == plain.shape == PICTURE.shape and (cleaned != plain).any()
    assert (pixels(codec.decode(data, denoise=2, strength=50)) == cleaned).all()
