"""Write the model of a run as a bundle.

The averaged weights are those of a finished run, or those that a cut run left.
"""

from __future__ import annotations

from typing import Any

from sdcodec.bundles.store import Bundle, read_manifest
from sdcodec.bundles.writing import set_default_realism
from sdcodec.files import replace_folder
from sdcodec.temporaries import remove_abandoned, temporary_folder
from sdcodec.training.averages import Averages
from sdcodec.training.config import TrainingConfig
from sdcodec.training.export import export, export_decoder
from sdcodec.training.photographs import Photographs

TABLE_BATCH, TABLE_CROPS = 3 << 40, 64  # number of a step that no training reaches


def write_model(
    config: TrainingConfig,
    averages: Averages,
    photographs: Photographs,
    source: Bundle | None,
    realism: float | None = None,
) -> Bundle:
    """Write `bundle/` in the folder of the run, ready for `--model`.

    `source` is the bundle that the run started from; if only the decoder was trained, its encoder and priors are kept.
    `realism`, 0..1, becomes the default of a decoder that has it. The folder is replaced as a whole, so that a run
    whose `bundle/` exists is finished.
    """
    folder = config.output_folder / "bundle"
    weights = {name: value.float().cpu() for name, value in averages.weights.items()}
    description: dict[str, Any] = {
        "steps": averages.step,
        "training_images": photographs.count,
        "validation_loss": averages.description.get("validation_loss"),
    }
    remove_abandoned(folder.parent)
    with temporary_folder(folder.parent) as place:
        work = place / folder.name
        if source is not None and config.keeps_files:
            bundle = export_decoder(weights, config.autoencoder, config.prior, source, work, description)
        else:
            crops = photographs.crops(config.seed, TABLE_BATCH, TABLE_CROPS, config.crop_size).cpu()
            images = crops.permute(0, 2, 3, 1).contiguous().numpy()
            bundle = export(weights, config.autoencoder, config.prior, images, work, config.name, description)
        if realism is not None:
            set_default_realism(bundle, realism)
        replace_folder(work, folder)
    bundle = read_manifest(folder)
    print(f"model written to {folder}, fingerprint {bundle.priors[0].fingerprint.hex()[:8]}", flush=True)
    return bundle
