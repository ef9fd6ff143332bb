"""UNets of diffusers pipelines: every family is read and runs as in diffusers.

Unsupported ones are refused in a line.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdcodec.bundles.unet_importing import import_unet
from sdcodec.denoisers.unet import HIDDEN_STATES, POOLED, time_ids, unet_denoiser
from sdcodec.errors import BundleError
from unet_pipelines import CHANNELS, FAMILIES, save_pipeline

diffusers = pytest.importorskip("diffusers", reason="the extra sd is not installed")
transformers = pytest.importorskip("transformers", reason="the extra sd is not installed")

CPU = torch.device("cpu")
LATENTS = torch.randn(1, CHANNELS, 12, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write a folder of each family once."""
    root = tmp_path_factory.mktemp("pipelines")
    return {family: save_pipeline(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="module")
def imported(folders):
    """Import each family in float16."""
    return {family: import_unet(folder, torch.float16) for family, folder in folders.items()}


@pytest.fixture
def changed(folders, tmp_path):
    """Copy a family's folder, for tests that break it."""
    return lambda family: Path(shutil.copytree(folders[family], tmp_path / family))


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_denoises_latents_of_any_size(imported, family):
    tensors, configuration = imported[family]
    denoiser = unet_denoiser(configuration, tensors, CPU, torch.float32)
    for shape in ((1, CHANNELS, 4, 4), (2, CHANNELS, 12, 20)):
        clean = denoiser(torch.ones(shape), 0.5)
        assert clean.shape == shape and clean.dtype == torch.float32 and clean.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_unet_and_an_embedding_are_stored(imported, family):
    tensors, configuration = imported[family]
    beside = {name for name in tensors if not name.startswith("unet.")}
    expected = set() if family == "unconditional" else {HIDDEN_STATES} | ({POOLED} if "xl" in family else set())
    assert beside == expected
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert "/" not in json.dumps(configuration)  # no place on this machine


@pytest.mark.parametrize(
    ("family", "prediction", "turbo"),
    [
        ("sd15", "epsilon", False),
        ("sd21-v", "v_prediction", False),
        ("sd-turbo", "epsilon", True),
        ("sdxl-turbo", "epsilon", True),
    ],
)
def test_prediction_and_distillation_are_recognised(imported, family, prediction, turbo):
    _, configuration = imported[family]
    assert configuration["prediction"] == prediction
    assert configuration["trained_timesteps"] == ([249, 499, 749, 999] if turbo else None)


def test_who_knows_better_says_whether_a_model_is_distilled(folders):
    assert import_unet(folders["sd15"], torch.float16, turbo=True)[1]["trained_timesteps"]
    assert not import_unet(folders["sd-turbo"], torch.float16, turbo=False)[1]["trained_timesteps"]


def test_trailing_steps_of_a_zero_snr_model_are_no_distillation(changed):
    folder = changed("sd-turbo")
    rewrite(folder / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True)
    assert import_unet(folder, torch.float16)[1]["trained_timesteps"] is None


def test_the_empty_prompt_is_what_the_text_encoder_makes_of_it(folders):
    tensors, _ = import_unet(folders["sd15"], torch.float32)
    encoder = transformers.CLIPTextModel.from_pretrained(folders["sd15"] / "text_encoder").eval()
    ids = torch.tensor([[4] + [5] * 76])  # start, then end as padding
    with torch.no_grad():
        assert torch.allclose(tensors[HIDDEN_STATES], encoder(ids).last_hidden_state, atol=1e-6)


def test_two_text_encoders_are_joined_as_sdxl_joins_them(folders):
    tensors, _ = import_unet(folders["sdxl-encoders"], torch.float32)
    ids = torch.tensor([[4] + [5] * 76])
    first = transformers.CLIPTextModel.from_pretrained(folders["sdxl-encoders"] / "text_encoder").eval()
    second = transformers.CLIPTextModelWithProjection.from_pretrained(
        folders["sdxl-encoders"] / "text_encoder_2"
    ).eval()
    with torch.no_grad():
        outputs = [network(ids, output_hidden_states=True) for network in (first, second)]
    assert torch.allclose(tensors[HIDDEN_STATES], torch.cat([o.hidden_states[-2] for o in outputs], -1), atol=1e-6)
    assert torch.allclose(tensors[POOLED], outputs[1].text_embeds, atol=1e-6)


def test_zeros_for_the_empty_prompt_need_no_text_encoder(changed):
    folder = changed("sdxl-turbo")
    for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        shutil.rmtree(folder / part)
    tensors, _ = import_unet(folder, torch.float16)
    assert tensors[HIDDEN_STATES].shape == (1, 77, 32) and not tensors[HIDDEN_STATES].any()
    assert tensors[POOLED].shape == (1, 16) and not tensors[POOLED].any()


@pytest.mark.parametrize("family", ["sd15", "sd21-v", "sdxl-encoders", "unconditional"])
def test_a_unet_runs_as_diffusers_runs_it(folders, family):
    """Against the network and the scheduler of diffusers themselves, at one timestep."""
    tensors, configuration = import_unet(folders[family], torch.float32)
    denoiser = unet_denoiser(configuration, tensors, CPU, torch.float32)
    network = getattr(diffusers, configuration["class"]).from_pretrained(folders[family] / "unet").eval()
    condition = {"encoder_hidden_states": tensors[HIDDEN_STATES]} if HIDDEN_STATES in tensors else {}
    if POOLED in tensors:
        ids = torch.tensor([[128.0, 128, 0, 0, 128, 128]])
        condition["added_cond_kwargs"] = {"text_embeds": tensors[POOLED], "time_ids": ids}
    scheduler = diffusers.DDIMScheduler.from_pretrained(folders[family] / "scheduler", clip_sample=False)
    share = scheduler.alphas_cumprod[300]
    noisy = share.sqrt() * LATENTS
    with torch.no_grad():
        output = network(noisy, 300, **condition).sample
    scheduler.set_timesteps(10)
    expected = scheduler.step(output, 300, noisy).pred_original_sample
    got = denoiser(LATENTS, float(((1 - share) / share).sqrt()))
    assert (got - expected).abs().max() < 1e-3 * expected.abs().max()


def test_sdxl_is_told_of_a_whole_picture_of_its_own_size(imported):
    _, configuration = imported["sdxl"]
    config = type("Config", (), configuration["unet"])
    assert time_ids(config, 16).tolist() == [[128, 128, 0, 0, 128, 128]]
    config.projection_class_embeddings_input_dim = 16 + 5 * 8  # the refiner's
    assert time_ids(config, 16).tolist() == [[128, 128, 0, 0, 6]]


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_weights_stay_small_and_are_computed_with_in_full(folders, stored):
    tensors, configuration = import_unet(folders["sdxl"], stored)
    denoiser = unet_denoiser(configuration, tensors, CPU, torch.float32)
    kept = denoiser.denoiser.network._unet
    wide = {name: value.float() for name, value in tensors.items()}
    assert torch.equal(denoiser(LATENTS, 0.5), unet_denoiser(configuration, wide, CPU, torch.float32)(LATENTS, 0.5))
    size = sum(p.numel() * p.itemsize for p in kept.parameters())
    assert size < 0.55 * sum(4 * p.numel() for p in kept.parameters())


def test_offloaded_weights_are_not_on_the_device(imported):
    """The device is the CPU as well: no weight stays loaded, and results are equal."""
    tensors, configuration = imported["sd15"]
    plain = unet_denoiser(configuration, tensors, CPU, torch.float32)
    offloaded = unet_denoiser(configuration, tensors, CPU, torch.float32, offload=True)
    assert torch.equal(plain(LATENTS, 0.5), offloaded(LATENTS, 0.5))
    assert all(p.is_meta for p in offloaded.denoiser.network._unet.parameters())


def test_half_precision_weights_under_their_own_name_are_found(changed):
    folder = changed("sd15")
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16.safetensors")
    assert import_unet(folder, torch.float16)[1]["class"] == "UNet2DConditionModel"


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_pickled_weights_are_refused(changed, part):
    folder = changed("sd15")
    [weights] = (folder / part).glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(BundleError, match=r"pickled.*safetensors"):
        import_unet(folder, torch.float16)


def test_missing_weights_are_named(changed):
    folder = changed("sd15")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BundleError, match="no weights"):
        import_unet(folder, torch.float16)


@pytest.mark.parametrize("part", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_missing_parts_are_named(changed, part):
    folder = changed("unconditional")
    (folder / part).unlink()
    with pytest.raises(BundleError, match=part.split("/")[1]):
        import_unet(folder, torch.float16)


def test_a_missing_text_encoder_is_named(changed):
    folder = changed("sd15")
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(BundleError, match="text_encoder"):
        import_unet(folder, torch.float16)


def test_a_broken_tokenizer_is_named(changed):
    folder = changed("sd15")
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(BundleError, match="tokenizer"):
        import_unet(folder, torch.float16)


@pytest.mark.parametrize(
    ("file", "changes", "complaint"),
    [
        ("unet/config.json", {"_class_name": "SD3Transformer2DModel"}, "'SD3Transformer2DModel'"),
        ("unet/config.json", {"in_channels": 17}, "17 channels in and 8 out"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
        ("unet/config.json", {"down_block_types": ["NoBlock2D", "DownBlock2D"]}, "NoBlock2D"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}, "'flow_prediction'"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "laplace"}, "'laplace'"),
        ("text_encoder/config.json", {"architectures": ["T5EncoderModel"]}, "'T5EncoderModel'"),
    ],
)
def test_what_is_not_known_is_named(changed, file, changes, complaint):
    folder = changed("sd15")
    rewrite(folder / file, **changes)
    with pytest.raises(BundleError, match=complaint) as raised:
        import_unet(folder, torch.float16)
    assert "\n" not in str(raised.value)


def test_a_flow_matching_model_is_refused(changed):
    folder = changed("sd15")
    shutil.rmtree(folder / "scheduler")
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(BundleError, match="FlowMatchEulerDiscreteScheduler"):
        import_unet(folder, torch.float16)


def test_weights_that_lack_a_tensor_are_refused(changed):
    folder = changed("sd15")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors.pop("conv_in.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BundleError, match=r"conv_in\.weight"):
        import_unet(folder, torch.float16)


def test_damaged_weights_are_refused(changed):
    folder = changed("sd15")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[: 1 << 12])
    with pytest.raises(BundleError, match="cannot be loaded"):
        import_unet(folder, torch.float16)


def test_a_text_encoder_of_another_model_is_refused(changed):
    folder = changed("sd15")
    wide = diffusers.UNet2DConditionModel.from_config(
        {**diffusers.UNet2DConditionModel.load_config(folder / "unet"), "cross_attention_dim": 24}
    )
    wide.save_pretrained(folder / "unet")
    with pytest.raises(BundleError, match="16 wide, the UNet wants 24"):
        import_unet(folder, torch.float16)
