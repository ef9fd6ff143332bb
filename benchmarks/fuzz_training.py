"""Mutated checkpoints and averaged weights of a small run, a module for `fuzz.py`."""

from __future__ import annotations

import io
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mutations import changed_text
from sdcodec.autoencoders.conv import ConvConfig
from sdcodec.errors import SdcodecError
from sdcodec.priors.config import PriorConfig
from sdcodec.training import run
from sdcodec.training.averages import RUN, load_averages
from sdcodec.training.checkpoint import load_weights
from sdcodec.training.config import TrainingConfig
from sdcodec.training.model import TrainingModel
from sdcodec.training.trainer import Trainer

AUTOENCODER = ConvConfig(
    latent_channels=4,
    encoder_width_4=4,
    encoder_width_8=4,
    encoder_blocks_8=1,
    decoder_width_8=4,
    decoder_blocks_8=1,
    decoder_width_4=4,
    decoder_blocks_4=1,
    decoder_width_2=4,
)
PRIOR = PriorConfig(latent_channels=4, hyper_channels=4, width=8, middle=8, blocks=1)
WRONG: tuple[Any, ...] = (
    None,
    -1,
    2**70,
    1.5,
    float("nan"),
    "text",
    [],
    {},
    True,
    torch.zeros(0),
    torch.zeros(3, 5),
    torch.zeros((), dtype=torch.int64),
    torch.zeros(2, 2).to_sparse(),
)


class Attack:
    """A small run in `folder`, whose files are mutated and read again."""

    def __init__(self, folder: Path) -> None:
        """Make the run, with a step of its optimisers, and write its files."""
        torch.manual_seed(0)
        config = TrainingConfig(data=(), output=str(folder), num_steps=9, autoencoder=AUTOENCODER, prior=PRIOR)
        model = TrainingModel(AUTOENCODER, PRIOR)
        no_images: Any = None
        self.trainer = Trainer(config, model, no_images, np.zeros((0, 64, 64, 3), np.uint8), torch.device("cpu"))
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        self.trainer.optimisers.step()
        self.trainer._save()
        self.path = self.trainer.checkpoint
        self.state = torch.load(self.path, weights_only=True)
        # A few tensors do for the reader of files; it takes 100 ms for all of them.
        few = {name: dict(list(self.state[name].items())[:3]) for name in ("model", "average")}
        torch.save(self.state | few | {"optimisers": []}, self.path)
        self.whole = self.path.read_bytes()
        with zipfile.ZipFile(self.path) as archive:
            self.parts = {name: archive.read(name) for name in archive.namelist()}
        self.averages = {path.name: path.read_bytes() for path in (folder / "averages").iterdir()}

    def made(self, seed: int) -> bytes:
        """Return the seed's kind, and a mutated checkpoint, state or averages."""
        kind = b"FPSA"[seed % 4 : seed % 4 + 1]
        if kind == b"F":
            return kind + changed_text(seed, self.whole)
        if kind == b"P":
            return kind + self._repacked(seed)
        if kind == b"S":
            return kind + str(seed).encode()
        rng = random.Random(seed)
        name = rng.choice(sorted(self.averages))
        return kind + name.encode() + b"\n" + changed_text(seed, self.averages[name], rng.choice((2000, 1 << 30)))

    def _repacked(self, seed: int) -> bytes:
        """Change the pickle in the archive, whose checksums are right again."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in self.parts.items():
                archive.writestr(name, changed_text(seed, content) if name.endswith("data.pkl") else content)
        return buffer.getvalue()

    def _restructured(self, rng: random.Random) -> dict[str, Any]:
        """Replace, delete, rename or copy parts of the state."""
        state = _copied(self.state)
        for _ in range(rng.choice((1, 1, 2))):
            place: Any = state
            while True:
                names = list(place) if isinstance(place, dict) else list(range(len(place)))
                if not names:
                    break
                name = rng.choice(names)
                if isinstance(place[name], dict | list) and rng.random() < 0.9:
                    place = place[name]
                    continue
                way = rng.randrange(4)
                if way == 0:
                    del place[name]
                elif way == 1 and isinstance(place, dict):
                    place["other"] = place.pop(name)
                elif way == 2:
                    place[name] = place[rng.choice(names)]
                else:
                    place[name] = rng.choice(WRONG)
                break
        return state

    def read(self, data: bytes) -> str:
        """Continue from the mutated checkpoint or state, or export the averages."""
        kind, content = data[:1].decode(), data[1:]
        if kind == "A":
            name, _, rest = content.partition(b"\n")
            return f"{kind} {_outcome(lambda: self._exported(name.decode(), rest))}"
        if kind == "S":
            state = self._restructured(random.Random(int(content)))
            return f"{kind} {_outcome(lambda: self.trainer.go_on_from(state))}"
        self.path.write_bytes(content)
        return f"{kind} {_outcome(self.trainer.restore)}, weights {_outcome(lambda: load_weights(self.path))}"

    def _exported(self, name: str, content: bytes) -> None:
        folder = self.path.parent / "averages"
        shutil.rmtree(folder)
        folder.mkdir()
        for other, own in self.averages.items():
            (folder / other).write_bytes(content if other == name else own)
        run._exported_settings(folder / RUN, load_averages(folder))


def _copied(state: Any) -> Any:
    """Copy dictionaries and lists, but not the tensors in them."""
    if isinstance(state, dict):
        return {name: _copied(value) for name, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list) else state


def _outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except SdcodecError as error:
        return type(error).__name__
    return "read"
