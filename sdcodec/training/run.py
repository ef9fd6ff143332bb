"""`sdcodec train`: from a configuration file to a finished run."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sdcodec import hardware
from sdcodec.autoencoders.conv import ConvConfig
from sdcodec.bundles.store import MANIFEST, find
from sdcodec.errors import OptionError, TrainingError
from sdcodec.priors.config import PriorConfig
from sdcodec.temporaries import claimed
from sdcodec.training.averages import RUN, Averages, has_averages, load_averages
from sdcodec.training.checkpoint import load_weights
from sdcodec.training.config import PARTS, STAGES, TrainingConfig, load_config, settings_of
from sdcodec.training.data import find_images
from sdcodec.training.finishing import write_model
from sdcodec.training.model import TrainingModel
from sdcodec.training.photographs import Photographs, centre_crops, load_photographs
from sdcodec.training.restore import restore
from sdcodec.training.start import start_as_transform
from sdcodec.training.trainer import CHECKPOINT, Trainer
from sdcodec.training.validation import VALIDATION_SIZE

START_BATCH = 1 << 40  # number of a step that no training reaches
START_CROPS = 128
ADDED = ("vivid.", "decoder.head_")  # parameters that a stage adds


def train(config_path: Path, *, resume: bool = False, overrides: dict[str, str] | None = None) -> Path:
    """Run a configuration to its last step or a signal; return the folder of the run.

    SIGINT and SIGTERM stop it cleanly. Raises TrainingError for a faulty configuration, missing data, or a run that
    exists and is not to be resumed, OutputError for a folder that cannot be written or that another run works in.
    """
    config = load_config(config_path, overrides)
    _check_length(config)
    parts = _stages(config)
    if not resume:
        for part in parts:  # before hours of the first stage
            _check_output(part.output_folder, resume=False)
    photographs: Photographs | None = None
    for number, part in enumerate(parts):
        if resume and part is not parts[-1] and (part.output_folder / "bundle" / MANIFEST).exists():
            continue  # an earlier call has finished it
        go_on = resume and (number == 0 or (part.output_folder / CHECKPOINT).exists())
        with claimed(part.output_folder):
            trainer = prepare(part, resume=go_on, photographs=photographs)
            photographs = trainer.photographs
            images = photographs.count, len(trainer.validation)
            print(f"stage {part.stage}: {images[0]} images for training, {images[1]} for validation", flush=True)
            trainer.run()
        if trainer.progress < 1:  # stopped by a signal
            break
        del trainer
        gc.collect()  # trainer and recorded steps refer to each other; a GPU may have no room for two
    return config.output_folder


def _stages(config: TrainingConfig) -> list[TrainingConfig]:
    """Return a run for each stage.

    The last one has the output folder, earlier ones have folders beside it, named after them.
    """
    if config.stage != "all":
        return [config]
    shares = {"realism": config.realism_share, "previews": config.previews_share}
    shares = {"codec": 1 - sum(shares.values())} | {stage: share for stage, share in shares.items() if share}
    parts, source = [], config.start_from
    for stage, share in shares.items():
        last = stage == [*shares][-1]
        output = config.output_folder
        folder = output if last else output.with_name(f"{output.name}-{stage}")
        parts.append(
            replace(
                config,
                stage=stage,
                output=str(folder),
                start_from=source,
                train_only=config.train_only if stage == "codec" else "",
                minutes=config.minutes * share,
                num_steps=max(1, round(config.num_steps * share)) if config.num_steps else 0,
            )
        )
        source = str(folder / "bundle")
    return parts


def _check_length(config: TrainingConfig) -> None:
    if (config.num_steps > 0) == (config.minutes > 0):
        raise TrainingError("the length of the run is not clear; give either --minutes or --steps")


def export_run(config_path: Path, *, overrides: dict[str, str] | None = None) -> Path:
    """Write the model of a run from its averaged weights; return its folder.

    Of a run of several stages it is the last one that was reached. Raises TrainingError if there are no weights or no
    photographs, to which the frequency tables are fitted, and BundleError if a later stage's first model is missing.
    """
    config = load_config(config_path, overrides)
    parts = _stages(config)
    reached = [part for part in parts if has_averages(part.output_folder / "averages")]
    part = (reached or parts)[-1]
    averages = load_averages(part.output_folder / "averages")
    stored = _exported_settings(part.output_folder / "averages" / RUN, averages)
    # A run that was copied here from another machine names folders of that machine.
    begun_from = part.start_from if part.stage == stored.stage else config.start_from
    config = replace(
        part, autoencoder=stored.autoencoder, prior=stored.prior, train_only=stored.train_only, stage=stored.stage
    )
    source = find(begun_from or stored.start_from) if config.keeps_files else None
    photographs = _photographs(config, find_images(_folders(config)).training, torch.device("cpu"))
    return write_model(config, averages, photographs, source).folder


def _exported_settings(path: Path, averages: Averages) -> TrainingConfig:
    """Return the settings of a run that its description `path` has.

    Raises TrainingError if they are damaged, or if the weights do not fit them.
    """
    stored = averages.description.get("config")
    if not isinstance(stored, dict):
        raise TrainingError(f"{path}: no description of a run; copy it from the run again")
    texts = {name: stored.get(name) for name in ("stage", "train_only", "start_from")}
    known = texts["stage"] in STAGES and texts["train_only"] in ("", *PARTS) and isinstance(texts["start_from"], str)
    if not known:
        raise TrainingError(f"{path}: no description of a run; copy it from the run again")
    autoencoder = settings_of(ConvConfig, stored.get("autoencoder"), path)
    prior = settings_of(PriorConfig, stored.get("prior"), path)
    _check_weights(path, autoencoder, prior, averages.weights)
    return TrainingConfig(data=(), output="", autoencoder=autoencoder, prior=prior, **texts)


def prepare(config: TrainingConfig, *, resume: bool = False, photographs: Photographs | None = None) -> Trainer:
    """Load the photographs, unless given, and the weights that a run starts from.

    Raises TrainingError as `train`.
    """
    _check_output(config.output_folder, resume)
    folders = _folders(config)
    _check_length(config)
    device = _device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    source, weights = None, None
    config = replace(config, autoencoder=_with_parts(config.autoencoder, config.stage))
    if config.start_from.endswith(".pt"):
        weights = load_weights(Path(config.start_from))
    elif config.start_from:
        source = find(config.start_from)
        restored = restore(source)
        config = replace(config, autoencoder=_with_parts(restored.autoencoder, config.stage), prior=restored.prior)
        weights = restored.weights
        if not config.autoencoder.realism:
            weights = {name: value for name, value in weights.items() if not name.startswith("vivid.")}
    model = _model(config, weights).to(device, memory_format=torch.channels_last)
    split = find_images(folders)
    photographs = photographs or _photographs(config, split.training, device)
    validation = centre_crops(split.validation, config.validation_images, VALIDATION_SIZE)
    if weights is None:
        start_as_transform(model, photographs.crops(config.seed, START_BATCH, START_CROPS, config.crop_size))
    trainer = Trainer(config, model, photographs, validation, device, source)
    if resume:
        trainer.restore()
    return trainer


def _folders(config: TrainingConfig) -> list[Path]:
    if not config.data:
        raise TrainingError("photographs are missing; give their folder as --data")
    return [Path(folder) for folder in config.data]


def _photographs(config: TrainingConfig, paths: tuple[Path, ...], device: torch.device) -> Photographs:
    """Load the photographs; a pack of them lies beside the folder of the run."""
    return load_photographs(paths, config.crop_size, device, config.output_folder.parent)


def _check_output(output: Path, resume: bool) -> None:
    exists = (output / CHECKPOINT).exists()
    if exists and not resume:
        raise TrainingError(f"{output}: holds a run already; give --resume to continue it, or another output")
    if resume and not exists:
        raise TrainingError(f"{output}: no run to resume; leave --resume out, or correct the output")


def _device(name: str) -> torch.device:
    if name == "auto" and not torch.cuda.is_available():
        name = "cpu"  # training on MPS was never tested
    try:
        return hardware.device(name)
    except OptionError as error:
        raise TrainingError(str(error)) from error


def _with_parts(autoencoder: ConvConfig, stage: str) -> ConvConfig:
    """Return the configuration with the parts that a stage adds to the decoder.

    Another codec has no vivid decoder until one is trained for it.
    """
    changed = {"codec": {"realism": 0}, "realism": {"realism": 1}, "previews": {"reduced": 1}}
    return replace(autoencoder, **changed[stage])


def _model(config: TrainingConfig, weights: dict[str, Tensor] | None) -> TrainingModel:
    """Build the model, with the `weights` of an earlier run if given."""
    model = TrainingModel(config.autoencoder, config.prior)
    if weights is not None:
        _check_weights(config.start_from, config.autoencoder, config.prior, weights)
        model.load_state_dict(weights, strict=False)
        if config.autoencoder.realism and not any(name.startswith("vivid.") for name in weights):
            model.vivid.load_state_dict(model.decoder.state_dict(), strict=False)
    return model


def _check_weights(source: str | Path, autoencoder: ConvConfig, prior: PriorConfig, weights: dict[str, Tensor]) -> None:
    """Raise TrainingError unless the weights are those of such a model."""
    with torch.device("meta"):  # without memory, whatever the widths are
        shapes = {name: value.shape for name, value in TrainingModel(autoencoder, prior).state_dict().items()}
    differing = [name for name, value in weights.items() if value.shape != shapes.get(name)]
    missing = [name for name in shapes if name not in weights and not name.startswith(ADDED)]
    if wrong := [*differing, *missing]:
        raise TrainingError(
            f"{source}: weights of another model ({', '.join(wrong[:3])}); "
            "give [autoencoder] and [prior] as its run had them"
        )
