"""Keep decoded photographs in device memory; a batch of crops is one gather."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sdcodec.errors import TrainingError
from sdcodec.files import write_whole
from sdcodec.temporaries import remove_abandoned
from sdcodec.training.data import decode_images

SCALES = (1.0, 0.84, 0.7, 0.56, 0.42)  # smaller versions hide the artefacts of a photograph's own file
FULL_SIZE_SHARE = 0.5  # of the crops; the smaller versions share the rest
PACK_VERSION = 1
INDEX_BYTES = 8  # length of a pack's index, its last bytes


@dataclass(frozen=True)
class Photographs:
    """Pixels of all photographs at all scales, and an index.

    `pixels` is uint8 `[N, 3]`, row by row. A level is one photograph at one scale: a row (offset, height, width,
    photograph) of `levels`, int64 `[L, 4]`.
    """

    pixels: Tensor
    levels: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of photographs."""
        return len(np.unique(self.levels[:, 3]))

    @cached_property
    def _cumulated(self) -> NDArray[np.float64]:
        """Return cumulated probabilities of levels; all photographs weigh the same."""
        photographs = self.levels[:, 3]
        counts = np.bincount(photographs)[photographs]
        full = np.append(True, photographs[1:] != photographs[:-1])
        smaller = (1 - FULL_SIZE_SHARE) / np.maximum(counts - 1, 1)
        weights = np.where(full, np.where(counts > 1, FULL_SIZE_SHARE, 1.0), smaller)
        return np.cumsum(weights / weights.sum())

    def crops(self, seed: int, step: int, count: int, size: int) -> Tensor:
        """Return random crops `[count, 3, size, size]`, uint8, half of them mirrored.

        They are on the device of the pixels, and depend on seed and step only, so that a resumed run sees the crops of
        an unbroken run. No level has a side below `size`.
        """
        random = np.random.default_rng((seed, step))
        last = len(self.levels) - 1
        chosen = self.levels[np.minimum(np.searchsorted(self._cumulated, random.random(count), side="right"), last)]
        offset, height, width, _ = chosen.T
        top = (random.random(count) * (height - size + 1)).astype(np.int64)
        left = (random.random(count) * (width - size + 1)).astype(np.int64)
        mirrored = random.random(count) < 0.5
        first = offset + top * width + left + np.where(mirrored, size - 1, 0)
        draws = torch.from_numpy(np.stack([first, width, np.where(mirrored, -1, 1)]))
        if self.pixels.is_cuda:
            draws = draws.pin_memory()
        start, stride, direction = draws.to(self.pixels.device, non_blocking=True)[:, :, None, None]
        places = torch.arange(size, device=self.pixels.device)
        index = start + stride * places[:, None] + direction * places
        # A tensor in memory format channels_last, as convolutions want it.
        return self.pixels[index.flatten()].view(count, size, size, 3).permute(0, 3, 1, 2)


def load_photographs(paths: tuple[Path, ...], smallest: int, device: torch.device, folder: Path) -> Photographs:
    """Decode photographs once and return them at every scale.

    No level has a side below `smallest`. On a CPU the pixels are packed into a file in `folder` that later runs map
    into memory, while names, sizes and times of the photographs stay the same; on a GPU they stay in its memory.
    Raises TrainingError if no photograph is large enough.
    """
    if device.type != "cpu":
        parts: list[Tensor] = []
        levels = _decode_levels(paths, smallest, device, parts.append)
        return Photographs(torch.cat(parts), levels)
    path = folder / f"photographs-{_digest(paths, smallest)}.pack"
    remove_abandoned(folder)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                _write_pack(file, paths, smallest)

        write_whole(path, write)
    return _read_pack(path)


def _decode_levels(
    paths: tuple[Path, ...], smallest: int, device: torch.device, store: Callable[[Tensor], object]
) -> NDArray[np.int64]:
    """Pass the pixels of each level to `store`, `[H * W, 3]`; return the index."""
    levels: list[tuple[int, int, int, int]] = []
    offset = 0
    for number, pixels in enumerate(decode_images(paths, smallest)):
        for level in _scaled(pixels, smallest, device) if pixels is not None else ():
            height, width, _ = level.shape
            store(level.reshape(-1, 3))
            levels.append((offset, height, width, number))
            offset += height * width
    if not levels:
        raise TrainingError(f"no photograph has sides of {smallest} pixels; give larger ones, or a smaller crop_size")
    return np.array(levels, np.int64)


def _scaled(pixels: NDArray[np.uint8], smallest: int, device: torch.device) -> Iterable[Tensor]:
    """Yield an image at each scale, uint8 `[h, w, 3]`, while sides are large enough."""
    whole = torch.from_numpy(np.array(pixels)).to(device)
    planes = whole.permute(2, 0, 1)[None].float()
    for scale in SCALES:
        size = round(whole.shape[0] * scale), round(whole.shape[1] * scale)
        if min(size) < smallest:
            return
        if scale == 1:
            yield whole
        else:
            smaller = F.interpolate(planes, size, mode="bicubic", antialias=True)
            yield smaller.round().clamp(0, 255).byte()[0].permute(1, 2, 0)


def _digest(paths: tuple[Path, ...], smallest: int) -> str:
    """Return a name for the photographs: their paths, sizes and times."""
    hashed = hashlib.sha256(repr((PACK_VERSION, SCALES, smallest)).encode())
    for path in paths:
        status = path.stat()
        hashed.update(repr((str(path.resolve()), status.st_size, status.st_mtime_ns)).encode())
    return hashed.hexdigest()[:16]


def _write_pack(file: BinaryIO, paths: tuple[Path, ...], smallest: int) -> None:
    """Write pixels, index (JSON) and the length of the index."""

    def store(level: Tensor) -> None:
        file.write(level.contiguous().numpy().tobytes())

    index = json.dumps(_decode_levels(paths, smallest, torch.device("cpu"), store).tolist()).encode()
    file.write(index)
    file.write(len(index).to_bytes(INDEX_BYTES, "little"))


def _read_pack(path: Path) -> Photographs:
    """Map a pack into memory."""
    with path.open("rb") as file:
        end = file.seek(-INDEX_BYTES, os.SEEK_END)
        begin = file.seek(end - int.from_bytes(file.read(INDEX_BYTES), "little"))
        levels = np.array(json.loads(file.read(end - begin)), np.int64)
    # Copy on write: PyTorch has no tensors that are read-only.
    pixels = np.memmap(path, np.uint8, mode="c", shape=(begin // 3, 3))
    return Photographs(torch.from_numpy(pixels), levels)


def centre_crops(paths: tuple[Path, ...], count: int, size: int) -> NDArray[np.uint8]:
    """Return the middle of photographs, uint8 `[N, size, size, 3]`.

    At most `count` photographs are chosen, spread evenly over the paths.
    """
    crops = []
    for pixels in decode_images(tuple(paths[i * len(paths) // count] for i in range(min(count, len(paths)))), size):
        if pixels is not None:
            top, left = ((side - size) // 2 for side in pixels.shape[:2])
            crops.append(pixels[top : top + size, left : left + size])
    return np.stack(crops) if crops else np.zeros((0, size, size, 3), np.uint8)
