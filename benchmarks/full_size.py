"""Measure Stable Diffusion's networks at full size, with random weights.

    python benchmarks/full_size.py [--models sd15 sd21 sdxl] [--precision auto] [--side 512]

It prints parameters, peak memory and time of each stage. The configurations are the published ones, so memory and
time are those of the real models; images are noise. Each stage is a process of its own, which reads a bundle as the
command does; peak memory is the whole process's, Python and PyTorch included. `--dtype` is the type of the stored
weights. With CUDA
also: one step of the SDXL-Turbo-size UNet plus the VAE's decoder, warm, on one image and on eight (for comparison:
207 ms for a 512x512 image of SDXL-Turbo on an A100, the whole pipeline, as its authors report).

The exit status is 1 if decoding with sd15's UNet takes 6 GB or more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LIMIT = 6e9  # bytes, for decoding 512x512 with an SD 1.x UNet
SIGMA = 0.7  # any level will do
WARM_ROUNDS = 10

VAE: dict[str, Any] = {  # AutoencoderKL of Stable Diffusion 1.x and 2.x; SDXL's differs in its scaling
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
SD15_UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
SD21_UNET: dict[str, Any] = SD15_UNET | {
    "sample_size": 96,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "upcast_attention": True,
}
SDXL_UNET: dict[str, Any] = SD15_UNET | {
    "sample_size": 128,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SDXL_VAE = VAE | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], str, bool]] = {  # VAE, UNet, prediction, turbo
    "sd15": (VAE, SD15_UNET, "epsilon", False),
    "sd21": (VAE | {"sample_size": 768}, SD21_UNET, "v_prediction", False),
    "sdxl": (SDXL_VAE, SDXL_UNET, "epsilon", False),
    "sdxl-turbo": (SDXL_VAE, SDXL_UNET | {"sample_size": 64}, "epsilon", True),
}
TRAINING = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STAGES = ("encode", "unet", "decode", "denoise")
TITLES = {
    "encode": "encode",
    "unet": "UNet, one step",
    "decode": "decode",
    "denoise": "decode, one step",
    "warm": "warm",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["sd15", "sd21", "sdxl"])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], default="float16")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--side", type=int, default=512)
    options = parser.parse_args()
    within = True
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            sizes = _child("bundle", folder, options, model)
            print(
                f"{model}: VAE {sizes['vae']:,} parameters, UNet {sizes['unet']:,}, stored in {options.dtype}",
                flush=True,
            )
            for stage in options.stages:
                figures = _child(stage, folder, options, model)
                told = f"  {TITLES[stage]:18} {figures['seconds']:7.2f} s, peak {figures['peak'] / 1e9:5.2f} GB"
                print(told + (f", GPU {figures['gpu'] / 1e9:.2f} GB" if figures["gpu"] else ""), flush=True)
                if model == "sd15" and stage == "denoise" and options.side == 512:
                    within = max(figures["peak"], figures["gpu"]) < LIMIT
                    print(f"  {'below' if within else 'NOT below'} the limit of {LIMIT / 1e9:g} GB")
    _turbo(options)
    sys.exit(0 if within else 1)


def _turbo(options: argparse.Namespace) -> None:
    """Measure one step and the VAE, warm, on a GPU."""
    import torch

    if not torch.cuda.is_available():
        print("sdxl-turbo, one step and decoding, warm: skipped, there is no CUDA device")
        return
    with tempfile.TemporaryDirectory() as folder:
        _child("bundle", folder, options, "sdxl-turbo")
        figures = _child("warm", folder, options, "sdxl-turbo")
    print(
        f"sdxl-turbo, one step and decoding at {options.side}x{options.side}, warm, {figures['precision']}, {figures['name']}: "
        f"{1000 * figures['one']:.0f} ms (207 ms on an A100, the whole pipeline); "
        f"at batch 8 {8 / figures['eight']:.1f} images per second; GPU {figures['gpu'] / 1e9:.2f} GB"
    )


def _child(stage: str, folder: str, options: argparse.Namespace, model: str) -> dict[str, Any]:
    """Run a stage in a process of its own; return its figures."""
    settings = {**vars(options), "stage": stage, "folder": folder, "model": model}
    code = "import json, sys, full_size; full_size.run(json.loads(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(settings)],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def run(settings: dict[str, Any]) -> None:
    """Run a stage in a child: print its figures as JSON."""
    import torch

    if settings["stage"] == "bundle":
        print(json.dumps(make_bundle(Path(settings["folder"]), settings["model"], getattr(torch, settings["dtype"]))))
        return
    from sdcodec import Codec

    codec = Codec(settings["folder"] + "/", device=settings["device"], precision=settings["precision"])
    file = Path(settings["folder"], "picture.sdc")
    if settings["stage"] == "warm":
        figures = _warm(codec, settings["side"])
    else:
        start = time.perf_counter()
        if settings["stage"] == "encode":
            file.write_bytes(codec.encode(_noise(settings["side"]), quality=30).data)
        elif settings["stage"] == "unet":
            latents = torch.zeros(1, 4, settings["side"] // 8, settings["side"] // 8, device=codec.device)
            codec._denoiser(latents, SIGMA).cpu()
        else:
            if not file.exists():
                raise SystemExit("the stage encode has to come first")
            codec.decode(file.read_bytes(), denoise=int(settings["stage"] == "denoise"))
        figures = {"seconds": time.perf_counter() - start}
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    print(json.dumps({**figures, "peak": _peak(), "gpu": gpu}))


def _warm(codec: Any, side: int) -> dict[str, Any]:
    """Return seconds of one step and the VAE's decoder, the median over rounds.

    They are for one image and for eight at once.
    """
    import torch

    times = {}
    for name, batch in (("one", 1), ("eight", 8)):
        latents = torch.randn(batch, 4, side // 8, side // 8, device=codec.device)
        rounds = []
        for _ in range(WARM_ROUNDS + 2):
            torch.cuda.synchronize()
            start = time.perf_counter()
            codec._model.autoencoder.decode(codec._denoiser(latents, SIGMA), 100).cpu()
            rounds.append(time.perf_counter() - start)
        times[name] = sorted(rounds[2:])[WARM_ROUNDS // 2]
    precision = str(codec._dtype).removeprefix("torch.")
    return {**times, "seconds": times["one"], "precision": precision, "name": torch.cuda.get_device_name()}


def make_bundle(folder: Path, model: str, dtype: Any) -> dict[str, int]:
    """Write a bundle with random weights; return the numbers of its parameters."""
    import torch

    from sdcodec.autoencoders import diffusers
    from sdcodec.bundles import writing
    from sdcodec.constants import QUALITY_LEVELS
    from sdcodec.denoisers.unet import HIDDEN_STATES, POOLED, UNET_PREFIX, build_unet

    vae, unet, prediction, turbo = MODELS[model]
    weights = _random(diffusers.build("AutoencoderKL", vae), dtype)
    step = torch.logspace(0.5, -1.5, QUALITY_LEVELS)[:, None].expand(-1, 4)
    bundle = writing.write_bundle(
        folder,
        name=model,
        autoencoder="diffusers",
        configuration={"family": "AutoencoderKL", "latent_channels": 4, "factor": 8, "arguments": vae},
        weights=weights,
        prior=writing.adaptive_prior(4, 1 / step, step),
        description={"licence": "none: random weights"},
    )
    denoiser = {UNET_PREFIX + k: v for k, v in _random(build_unet("UNet2DConditionModel", unet), dtype).items()}
    count = sum(value.numel() for value in denoiser.values())
    denoiser[HIDDEN_STATES] = torch.zeros(1, 77, unet["cross_attention_dim"], dtype=dtype)
    if "addition_time_embed_dim" in unet:
        pooled = unet["projection_class_embeddings_input_dim"] - 6 * unet["addition_time_embed_dim"]
        denoiser[POOLED] = torch.zeros(1, pooled, dtype=dtype)
    configuration = {
        "class": "UNet2DConditionModel",
        "latent_channels": 4,
        "unet": unet,
        "prediction": prediction,
        "schedule": TRAINING,
        "trained_timesteps": [249, 499, 749, 999] if turbo else None,
        "window": unet["sample_size"],
    }
    writing.add_denoiser(bundle, denoiser, configuration)
    return {"vae": sum(value.numel() for value in weights.values()), "unet": count}


def _random(network: Any, dtype: Any) -> dict[str, Any]:
    """Return weights of about 1 / fan-in in variance, cut from one block of noise.

    Drawing billions of numbers would take minutes.
    """
    import torch

    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(1))
    tensors = {}
    for name, tensor in network.state_dict().items():
        if tensor.ndim < 2:
            filled = torch.ones(tensor.shape) if name.endswith("weight") else torch.zeros(tensor.shape)
            tensors[name] = filled.to(dtype)
            continue
        block = (noise / (tensor.numel() / tensor.shape[0]) ** 0.5).to(dtype)
        whole = torch.empty(tensor.numel(), dtype=dtype)
        for start in range(0, len(whole), len(block)):
            whole[start : start + len(block)] = block[: len(whole) - start]
        tensors[name] = whole.view(tensor.shape)
    return tensors


def _noise(side: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
