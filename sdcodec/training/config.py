"""Configuration of a training run: one TOML file, checked when it is read."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from sdcodec.autoencoders.conv import ConvConfig
from sdcodec.errors import TrainingError
from sdcodec.priors.config import PriorConfig

Section = TypeVar("Section")

# Parts that `train_only` can name, with the prefixes of their parameters' names.
PARTS: dict[str, tuple[str, ...]] = {"decoder": ("decoder", "inverse_gain")}
# Stages of a run in their order (`sdcodec.training.stages`); "all" runs one after the other.
STAGES = ("codec", "realism", "previews")


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a run; qualities are 0..100."""

    data: tuple[str, ...]
    output: str
    name: str = "base"  # of the bundle
    num_steps: int = 0  # length of the run: either this
    minutes: float = 0.0  # or this, without warming up
    seed: int = 1
    learning_rate: float = 1e-3
    optimiser: str = "muon"
    warmup: float = 0.03  # share of the run over which the learning rate rises
    decay: float = 0.97  # share at the end over which it falls to 0
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    ema: float = 0.999
    rate_weight: float = 1.0  # of bits per pixel; raised with the weights below, it keeps the size of files
    lpips_weight: float = 2.5
    lpips_at_low: float = 1.0  # weight of LPIPS and DISTS at quality 0 relative to quality 100, log-linear between
    cast_weight: float = 0.0  # of the error of mean colours (`sdcodec.training.losses`), times its squared error
    grid_weight: float = 0.0  # of patterns that repeat from latent to latent, likewise
    structure_weight: float = 0.0  # of the structure of luma at 1/2, 1/4 and 1/8 of the size
    dists_weight: float = 0.0
    lpips_vgg_weight: float = 0.0  # of LPIPS with VGG-16, beside LPIPS with AlexNet
    vgg_images: int = 0  # images of a batch that each of these two sees, which are slow; 0: all
    vgg: str = ""  # file of VGG-16's weights for these two; empty: torchvision's cache
    evening: float = 0.45  # power of beta that divides each loss; 1: distortion counts the same at every rate
    qualities: tuple[float, float] = (0.0, 100.0)  # the range of training
    quantise_from: float = 0.0  # share of the run after which the prior's rounding is simulated; 1: never
    stage: str = "codec"  # one of STAGES, or all
    realism_share: float = 0.35  # of a run of all stages
    realism_rate: float = 5e-4  # learning rate of the decoder in this stage
    realism_dists: float = 10.0  # factor on the weight of DISTS at realism 1
    adversarial: float = 0.0  # norm of the adversarial gradient over that of the distortion; 0: no discriminator
    discriminator_rate: float = 4e-4
    previews_share: float = 0.03  # of a run of all stages
    train_only: str = ""  # one of PARTS: everything else stays as it is, and files stay valid; empty: train everything
    start_from: str = ""  # an earlier run's checkpoint (.pt), or a model by its name or folder
    crop_size: int = 256
    batch: int = 24
    validate_every: int = 500  # steps; a run by the clock is validated at its end only
    validation_images: int = 32
    device: str = "auto"
    compile: str = "auto"  # parts of a step, if their gradients equal the plain ones: auto (on CUDA), on or off
    autocast: bool = True  # bfloat16 on hardware that is fast at it
    threads: int = 0
    autoencoder: ConvConfig = field(default_factory=ConvConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)

    @property
    def output_folder(self) -> Path:
        """Folder of the run."""
        return Path(self.output)

    @property
    def keeps_files(self) -> bool:
        """Whether encoder and priors stay those of the model that the run starts from."""
        return bool(self.train_only) or self.stage in STAGES[1:]


def load_config(path: Path, overrides: dict[str, str] | None = None) -> TrainingConfig:
    """Read the file; `overrides` maps `key` or `section.key` to a TOML value as text.

    Relative folders in `data` and `output` are taken from the folder of the configuration file.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of TOML, or of UTF-8
        raise TrainingError(f"{path}: not valid TOML ({error}); correct it, see docs/training.md") from error
    for key, text in (overrides or {}).items():
        *sections, name = key.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = _toml_value(text)
    values["autoencoder"] = settings_of(ConvConfig, values.get("autoencoder", {}), path)
    values["prior"] = settings_of(PriorConfig, values.get("prior", {}), path)
    if isinstance(values.setdefault("data", []), str):
        values["data"] = [values["data"]]
    values.setdefault("output", f"runs/{path.stem}")
    config = _with_whole_paths(settings_of(TrainingConfig, values, path), path)
    if config.optimiser not in ("muon", "adamw"):
        raise TrainingError(f"{path}: optimiser = {config.optimiser!r}: choose muon or adamw")
    if config.compile not in ("auto", "on", "off"):
        raise TrainingError(f"{path}: compile = {config.compile!r}: choose auto, on or off")
    if config.stage not in (*STAGES, "all"):
        raise TrainingError(f"{path}: stage = {config.stage!r}: choose {', '.join(STAGES)} or all")
    if config.stage in STAGES[1:] and (not config.start_from or config.start_from.endswith(".pt")):
        raise TrainingError(f"{path}: stage {config.stage} starts from a model; give one as --from")
    if min(_stage_numbers(config)) < 0 or config.realism_share + config.previews_share >= 1:
        raise TrainingError(
            f"{path}: realism_share and previews_share are shares of the run, together below 1; "
            "adversarial and realism_dists are at least 0"
        )
    has_realism = config.stage == "realism" or (config.stage == "all" and config.realism_share > 0)
    if has_realism and config.adversarial and not config.lpips_vgg_weight:
        raise TrainingError(
            f"{path}: the discriminator looks at VGG-16's features; set lpips_vgg_weight, or adversarial to 0"
        )
    if has_realism and not config.adversarial and not (config.dists_weight and config.realism_dists > 1):
        raise TrainingError(
            f"{path}: the realism stage trains for DISTS or against a discriminator; "
            "set dists_weight with realism_dists above 1, adversarial, or realism_share to 0"
        )
    if config.train_only and config.train_only not in PARTS:
        raise TrainingError(f"{path}: train_only = {config.train_only!r}: choose {' or '.join(PARTS)}, or leave it out")
    if config.train_only and (not config.start_from or config.start_from.endswith(".pt")):
        raise TrainingError(
            f"{path}: train_only: start_from has to name a model, not a checkpoint; `bundle/` of a run is one"
        )
    if config.prior.latent_channels != config.autoencoder.latent_channels:
        raise TrainingError(
            f"{path}: latent_channels: {config.autoencoder.latent_channels} in [autoencoder] and "
            f"{config.prior.latent_channels} in [prior]; give both the same"
        )
    if not _is_range(config.qualities) or not 0 <= config.qualities[0] <= config.qualities[1] <= 100:
        raise TrainingError(f"{path}: qualities: two numbers from 0 to 100, the smaller first")
    if min(config.num_steps, config.minutes) < 0 or not all(0 <= share <= 1 for share in _shares(config)):
        raise TrainingError(
            f"{path}: warmup, decay and quantise_from are shares of the run from 0 to 1; num_steps and minutes at least 0"
        )
    if config.crop_size % 32 or config.crop_size < 64 or config.batch < 1:
        raise TrainingError(f"{path}: crop_size: a multiple of 32, at least 64; batch: at least 1")
    return config


def _shares(config: TrainingConfig) -> tuple[float, float, float]:
    return config.warmup, config.decay, config.quantise_from


def _stage_numbers(config: TrainingConfig) -> tuple[float, ...]:
    return config.realism_share, config.previews_share, config.adversarial, config.realism_dists


def _is_range(values: tuple[object, ...]) -> bool:
    return len(values) == 2 and all(isinstance(value, (int, float)) for value in values)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _with_whole_paths(config: TrainingConfig, path: Path) -> TrainingConfig:
    def whole(relative: object) -> str:
        return str((path.parent / str(relative)).resolve())

    return dataclasses.replace(
        config,
        data=tuple(map(whole, config.data)),
        output=whole(config.output),
        start_from=whole(config.start_from) if "/" in config.start_from else config.start_from,  # others are names
        vgg=whole(config.vgg) if config.vgg else "",
    )


def settings_of(kind: type[Section], values: Any, path: Path) -> Section:
    """Build a table of settings.

    Raises TrainingError for unknown names and wrong types.
    """
    kinds = get_type_hints(kind)
    if not isinstance(values, dict):
        raise TrainingError(f"{path}: {values!r} is no table of {', '.join(kinds)}")
    unknown = sorted(set(values) - set(kinds))
    if unknown:
        raise TrainingError(f"{path}: unknown setting {', '.join(unknown)}; known are {', '.join(sorted(kinds))}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    for key, value in given.items():
        wanted = get_origin(kinds[key]) or kinds[key]
        # TOML tells 1 from 1.0, people don't; and to Python, true is a whole number.
        fits = isinstance(value, (int, float) if wanted is float else wanted)
        if not fits or (isinstance(value, bool) and wanted is not bool):
            raise TrainingError(f"{path}: {key} = {value!r}: give {_NAMES.get(wanted, wanted.__name__)}")
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise TrainingError(f"{path}: {error}") from error


_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list",
}
