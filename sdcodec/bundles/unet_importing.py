"""UNets from diffusers pipeline folders, without their text encoders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdcodec.bundles.diffusers_folder import CONFIGURATION, explained, load_network, read_json, weight_files
from sdcodec.denoisers.prediction import PREDICTIONS
from sdcodec.denoisers.schedule import DEFAULTS, noise_schedule
from sdcodec.denoisers.unet import CLASSES, HIDDEN_STATES, POOLED, UNET_PREFIX, build_unet, largest_side
from sdcodec.errors import BundleError
from sdcodec.hardware import explained_memory

TOKENS = 77  # CLIP's context: length of the zeros that some SDXL pipelines use for the empty prompt
TURBO_LEVELS = (
    4  # adversarial diffusion distillation (Sauer et al., 2023) trains at a quarter, half, three quarters, all of T
)
TEXT_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection")


@explained_memory(
    "add the model without its UNet, or on a larger machine: a bundle is used with less than it is made with"
)
def import_unet(
    source: Path, dtype: torch.dtype, *, turbo: bool | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a pipeline folder's UNet as `(tensors, configuration)` for `add_denoiser`.

    source: holds `unet/` and `scheduler/`; if the UNet expects a prompt also `model_index.json` and, unless that says
        that zeros stand for the empty prompt, `text_encoder*/` and `tokenizer*/`. They run once, and their result is
        stored.
    dtype: of the stored weights.
    turbo: whether the model is distilled to a few timesteps (SD-Turbo, SDXL-Turbo). None: it is if its scheduler's
        `timestep_spacing` is "trailing" and its schedule is not rescaled to zero SNR (which goes with trailing steps,
        too).

    Raises BundleError for an unknown class, missing parts, pickled weights, or a UNet for another task than
    denoising; NotEnoughMemoryError.
    """
    unet_settings = read_json(source / "unet" / CONFIGURATION)
    scheduler = read_json(source / "scheduler" / "scheduler_config.json")
    index = read_json(source / "model_index.json") if (source / "model_index.json").exists() else {}
    name = unet_settings.get("_class_name", "")
    if name not in CLASSES:
        raise BundleError(f"{source / 'unet'}: the class {name!r} cannot denoise here; {' and '.join(CLASSES)} can")
    with _explained(source / "unet"):
        empty = build_unet(name, unet_settings)
    settings = json.loads(json.dumps({key: value for key, value in empty.config.items() if not key.startswith("_")}))
    _check_task(source / "unet", settings)
    variant, _ = weight_files(source / "unet", dtype)
    unet = load_network(type(empty), source / "unet", dtype, variant)
    schedule = _schedule(source / "scheduler", scheduler)
    if turbo is None:
        turbo = scheduler.get("timestep_spacing") == "trailing" and not schedule["rescale_betas_zero_snr"]
    count = len(noise_schedule(schedule).sigmas)
    tensors = {UNET_PREFIX + key: value.to(dtype).contiguous() for key, value in unet.state_dict().items()}
    if name == "UNet2DConditionModel":
        condition = _empty_prompt(source, index, settings)
        tensors |= {key: value.to(dtype).contiguous() for key, value in condition.items()}
    return tensors, {
        "class": name,
        "latent_channels": settings["in_channels"],
        "unet": settings,
        "prediction": _prediction(source / "scheduler", scheduler),
        "schedule": schedule,
        "trained_timesteps": [count * (i + 1) // TURBO_LEVELS - 1 for i in range(TURBO_LEVELS)] if turbo else None,
        "window": largest_side(settings.get("sample_size") or 64),
    }


def _check_task(place: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a UNet whose inputs are more than latents, a timestep and a prompt.

    Its output has to be latents, too.
    """
    if settings["in_channels"] != settings["out_channels"]:
        raise BundleError(
            f"{place}: {settings['in_channels']} channels in and {settings['out_channels']} out; a UNet for inpainting, "
            "upscaling or depth cannot denoise latents alone"
        )
    additional = settings.get("addition_embed_type")
    wanted = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
    extra = [key for key in wanted if settings.get(key) is not None]
    if additional not in (None, "text_time"):
        extra.append("addition_embed_type")
    if settings.get("time_embedding_type", "positional") != "positional":
        extra.append("time_embedding_type")
    if extra:
        what = ", ".join(f"{key} = {settings[key]!r}" for key in extra)
        raise BundleError(f"{place}: conditioned in a way that is not known here ({what})")


def _schedule(place: Path, scheduler: Mapping[str, Any]) -> dict[str, Any]:
    if not {"beta_schedule", "beta_start", "trained_betas"} & set(scheduler):
        name = scheduler.get("_class_name", "unnamed")
        raise BundleError(f"{place}: {name} has no betas; flow matching and EDM models are not known here")
    chosen = {key: scheduler.get(key, default) for key, default in DEFAULTS.items()}
    noise_schedule(chosen)
    return chosen


def _prediction(place: Path, scheduler: Mapping[str, Any]) -> str:
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise BundleError(f"{place}: prediction_type {prediction!r} is not known; {', '.join(PREDICTIONS)} are")
    return str(prediction)


def _empty_prompt(source: Path, index: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the embedding of the empty prompt.

    Hidden states are `[1, tokens, width]`, and for SDXL pooled `[1, width]`.
    """
    width, xl = settings["cross_attention_dim"], settings.get("addition_embed_type") == "text_time"
    if xl and index.get("force_zeros_for_empty_prompt", True):
        pooled = settings["projection_class_embeddings_input_dim"] - 6 * settings["addition_time_embed_dim"]
        return {HIDDEN_STATES: torch.zeros(1, TOKENS, width), POOLED: torch.zeros(1, pooled)}
    parts = [part for part in ("text_encoder", "text_encoder_2") if (source / part).is_dir()]
    if not parts:
        raise BundleError(f"{source}: no text_encoder folder; it is needed once, for the embedding of the empty prompt")
    hidden, pooled_output = [], None
    for part in parts if xl else parts[:1]:
        output = _encoded(source, part, part.replace("text_encoder", "tokenizer"))
        hidden.append(output.hidden_states[-2] if xl else output.last_hidden_state)
        pooled_output = getattr(output, "text_embeds", pooled_output)
    states = torch.cat(hidden, dim=-1)
    if states.shape[-1] != width or (xl and pooled_output is None):
        raise BundleError(
            f"{source}: the text encoder gives embeddings {states.shape[-1]} wide, the UNet wants {width}"
        )
    return {HIDDEN_STATES: states} | ({POOLED: pooled_output} if xl and pooled_output is not None else {})


@torch.no_grad()
def _encoded(source: Path, encoder: str, tokenizer: str) -> Any:
    """Run the empty prompt through one text encoder, in float32.

    It is padded as diffusers' pipelines pad it.
    """
    with _explained(source / tokenizer):
        import transformers

        words = transformers.CLIPTokenizer.from_pretrained(source / tokenizer, local_files_only=True)
    settings = read_json(source / encoder / CONFIGURATION)
    name = (settings.get("architectures") or [""])[0]
    if name not in TEXT_ENCODERS:
        raise BundleError(f"{source / encoder}: the class {name!r} is not known; {' and '.join(TEXT_ENCODERS)} are")
    variant, _ = weight_files(source / encoder, stem="model")
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with _explained(source / encoder):
        network = getattr(transformers, name).from_pretrained(
            source / encoder, variant=variant or None, use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
    length = min(words.model_max_length, network.config.max_position_embeddings)
    ids = words("", padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    return network.eval()(ids, output_hidden_states=True)


@contextmanager
def _explained(place: Path) -> Iterator[None]:
    """Explain errors as `explained`, and name the extra with a missing package."""
    try:
        with explained(place):
            yield
    except ImportError as error:
        raise BundleError(
            f"a UNet needs the package {error.name}; install sdcodec with its extra: pip install 'sdcodec[sd]'"
        ) from error
