"""The experiment of 2022 (Bühlmann): latents in 8 bits, a palette, dithering.

The image's latents, in quantiser steps at MIDDLE, are scaled to 8 bits; k-means finds up to 256 vectors that
represent them; Floyd and Steinberg's error diffusion (1976), over vectors instead of colours, chooses one for each
position; deflate packs palette and choices. `docs/experiment-2022.md` has the results.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdcodec.errors import FormatError

MIDDLE = 100  # quality index of the gains that distances between vectors are measured in
MOST_COLOURS = 256
VALUE_BITS = 8  # values count in 2**-8 steps
LIMIT = (1 << 15) - 1  # of an offset, in steps / 16
OFFSET_BITS = 4
ITERATIONS = 12
SAMPLE = 1 << 14  # vectors for k-means
RAW_DEFLATE = -15  # no header and no checksum: the file has one


@dataclass(frozen=True)
class Palettised:
    """Latents as bytes chosen from a palette.

    offsets: `[C]` int16, each channel's least value, in 1/16 step. unit: value of a byte, in 1/256 step, 1..65535.
    palette: uint8 `[K, C]`, K in 1..256. indices: uint8 `[h, w]`.
    """

    offsets: NDArray[np.int16]
    unit: int
    palette: NDArray[np.uint8]
    indices: NDArray[np.uint8]

    def values(self) -> NDArray[np.int32]:
        """Return the approximated latents, `[C, h, w]`, in 1/256 step at MIDDLE: exact."""
        entries = self.palette.astype(np.int32) * self.unit
        entries += self.offsets.astype(np.int32) << (VALUE_BITS - OFFSET_BITS)
        return np.ascontiguousarray(entries[self.indices].transpose(2, 0, 1))

    def to_bytes(self) -> bytes:
        """Return the payload of chunk `P`; `docs/format.md` has its layout."""
        differences = np.diff(self.palette.T.astype(np.int16), axis=1, prepend=0).astype(np.uint8)
        packed = _deflated(differences.tobytes() + self.indices.tobytes())
        head = bytes([len(self.palette) - 1]) + self.unit.to_bytes(2, "big")
        return head + self.offsets.astype(">i2").tobytes() + packed

    @classmethod
    def from_bytes(cls, payload: bytes, channels: int, height: int, width: int) -> Palettised:
        """Parse a payload. Raises FormatError for payloads that `to_bytes` never writes."""
        start = 3 + 2 * channels
        if len(payload) < start:
            raise FormatError("damaged: the palette is cut short")
        colours, unit = payload[0] + 1, int.from_bytes(payload[1:3], "big")
        offsets = np.frombuffer(payload[3:start], ">i2").astype(np.int16)
        data = np.frombuffer(_inflated(payload[start:], colours * channels + height * width), np.uint8)
        differences = data[: colours * channels].reshape(channels, colours)
        palette = np.cumsum(differences, axis=1, dtype=np.uint8).T
        indices = data[colours * channels :].reshape(height, width)
        if unit == 0 or indices.max() >= colours:
            raise FormatError("damaged: an index outside of the palette")
        return cls(offsets, unit, np.ascontiguousarray(palette), indices)


def palettised(scaled: NDArray[np.float32], colours: int = MOST_COLOURS) -> Palettised:
    """Choose a palette of at most `colours` (1..256) vectors for latents `[C, h, w]`.

    `scaled` are the latents in quantiser steps at MIDDLE. Deterministic: k-means starts from vectors that a seeded
    generator draws.
    """
    channels, height, width = scaled.shape
    scale = 1 << OFFSET_BITS
    lowest = np.clip(np.floor(scaled.min(axis=(1, 2)) * scale), -LIMIT, LIMIT)
    offsets = lowest.astype(np.int16)
    away = scaled - (lowest / scale)[:, None, None]
    unit = int(np.clip(np.ceil(away.max() * (1 << VALUE_BITS) / 255), 1, (1 << 16) - 1))
    vectors = (away * ((1 << VALUE_BITS) / unit)).reshape(channels, -1).T.astype(np.float32)
    palette = np.unique(np.rint(_means(vectors, colours)).clip(0, 255).astype(np.uint8), axis=0)
    palette = palette[np.argsort(_along(palette), kind="stable")]  # neighbours alike: smaller differences
    indices = _dithered(vectors.reshape(height, width, channels), palette)
    return Palettised(offsets, unit, palette, indices)


def quality_of_error(squared: float, gain: Tensor) -> int:
    """Return the quality index whose quantiser has the nearest error.

    `squared`: mean squared error of latents in steps at MIDDLE. `gain`: `[201, C]`, the model's. The header has the
    result, since decoders expect the error of rounding, step**2 / 12.
    """
    rows = gain.cpu().double()
    rounding = (rows[MIDDLE] / rows).square().mean(dim=1) / 12
    return int((rounding / max(squared, 1e-12)).log().abs().argmin())


def _means(vectors: NDArray[np.float32], colours: int) -> NDArray[np.float32]:
    """Find at most `colours` vectors for `[N, C]` by Lloyd's k-means."""
    random = np.random.default_rng(0)
    sample = vectors if len(vectors) <= SAMPLE else vectors[random.choice(len(vectors), SAMPLE, replace=False)]
    distinct = np.unique(sample, axis=0)
    if len(distinct) <= colours:
        return distinct
    centres = distinct[np.sort(random.choice(len(distinct), colours, replace=False))]
    for _ in range(ITERATIONS):
        nearest = _nearest(sample, centres)
        counts = np.bincount(nearest, minlength=colours)
        sums = np.stack([np.bincount(nearest, own, colours) for own in sample.T], axis=1)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres).astype(np.float32)
        # Unused centres go to the largest errors.
        empty = np.flatnonzero(counts == 0)
        far = np.argsort(-((sample - centres[nearest]) ** 2).sum(axis=1), kind="stable")
        centres[empty] = sample[far[: len(empty)]]
    return centres


def _nearest(vectors: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the index of the nearest centre of each vector, in parts."""
    norms = (centres**2).sum(axis=1)
    parts = [vectors[i : i + 4096] for i in range(0, len(vectors), 4096)]
    return np.concatenate([(norms - 2 * (part @ centres.T)).argmin(axis=1) for part in parts])


def _along(palette: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return positions of palette vectors along their direction of largest variance."""
    centred = palette - palette.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[0]


def _dithered(vectors: NDArray[np.float32], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return indices `[h, w]` of `[h, w, C]` by Floyd and Steinberg's error diffusion."""
    height, width, channels = vectors.shape
    entries = palette.astype(np.float32)
    norms = (entries**2).sum(axis=1)
    indices = np.zeros((height, width), np.uint8)
    below = np.zeros((width + 2, channels), np.float32)  # errors of the row above, with a margin on both sides
    for row in range(height):
        wanted = vectors[row] + below[1:-1]
        below = np.zeros_like(below)
        right = np.zeros(channels, np.float32)
        for column in range(width):
            # Errors that no entry of the palette can correct would add up permanently.
            value = np.clip(wanted[column] + right, 0, 255)
            chosen = int((norms - 2 * (entries @ value)).argmin())
            indices[row, column] = chosen
            error = value - entries[chosen]
            right = error * (7 / 16)
            below[column] += error * (3 / 16)
            below[column + 1] += error * (5 / 16)
            below[column + 2] += error * (1 / 16)
    return indices


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, RAW_DEFLATE, 9)
    return packer.compress(data) + packer.flush()


def _inflated(packed: bytes, expected: int) -> bytes:
    """Inflate exactly `expected` bytes; never more, whatever the data says."""
    unpacker = zlib.decompressobj(RAW_DEFLATE)
    try:
        data = unpacker.decompress(packed, expected + 1)
    except zlib.error as error:
        raise FormatError("damaged: the palette cannot be inflated") from error
    if len(data) != expected or not unpacker.eof or unpacker.unused_data:
        raise FormatError("damaged: the palette has another length than the picture needs")
    return data
