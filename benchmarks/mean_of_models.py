"""The mean of two models' weights, where one was trained on from the other around the same prior: often better than both.

    python benchmarks/mean_of_models.py MODEL MODEL OUT [--share 0.5]

Models are names or folders; --share is the second one's part. What decides the meaning of symbols has to be the same in both,
and stays so: files of either decode with the mean.

Where the first is a checkpoint (.pt) of a run that trained the prior as well, and the second another one, or the model that it
began with, OUT becomes a run with the mean of their averaged weights; `sdcodec train RECIPE --set output=/path/to/OUT --resume`
then writes its model, with a prior of its own. Networks that the second lacks are those of the first.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from sdcodec.bundles import store
from sdcodec.bundles.loading import read_tensors
from sdcodec.training.restore import restore
from sdcodec.training.run import load_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=0.5)
    options = parser.parse_args()
    if options.first.endswith(".pt"):
        _mean_with_run(Path(options.first), options.second, options.share, options.out)
        return
    first, second = store.find(options.first), store.find(options.second)
    if first.priors[0].fingerprint != second.priors[0].fingerprint:
        sys.exit("their symbols mean different things: models of one fingerprint are wanted")
    options.out.mkdir(parents=True)
    shutil.copyfile(first.folder / store.MANIFEST, options.out / store.MANIFEST)
    for file in (first.autoencoder_file, first.priors[0].file):
        own, other = read_tensors(first.folder / file), read_tensors(second.folder / file)
        # Gains and integers are equal in both, and lerp would round.
        mean = {
            name: value
            if value.equal(other[name])
            else value.float().lerp(other[name].float(), options.share).to(value.dtype)
            for name, value in own.items()
        }
        save_file(mean, options.out / file)
    print(f"written to {options.out}; fingerprint {first.priors[0].fingerprint.hex()[:8]}")


def _mean_with_run(first: Path, second: str, share: float, out: Path) -> None:
    """Writes `last.pt`: the first run's, but for its averaged weights."""
    state = torch.load(first, map_location="cpu", weights_only=True)
    other = load_weights(Path(second)) if second.endswith(".pt") else restore(store.find(second)).weights
    state["average"] = {
        name: value.lerp(other[name], share) if name in other else value for name, value in state["average"].items()
    }
    out.mkdir(parents=True)
    torch.save(state, out / "last.pt")
    print(f"written to {out / 'last.pt'}; export it with sdcodec train RECIPE --set output={out.resolve()} --resume")


if __name__ == "__main__":
    main()
