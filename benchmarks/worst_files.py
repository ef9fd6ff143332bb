"""Decode the worst files that the format allows, beside an honest one.

    python benchmarks/worst_files.py --side 1024

The honest file is `--image` at quality 100. All have the same padded size, so the same number of latents. Prints the
processor time of decoding (medians, the files taken in turn) and a child's peak memory, both as ratios to the honest
file; and seconds and megabytes of everything but the latents: parsing, palette, alpha and metadata.
"""

from __future__ import annotations

import argparse
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import sdcodec
from sdcodec.coding.rangecoder import SymbolEncoder
from sdcodec.coding.tables import FrequencyTables
from sdcodec.container import Chunk, Container, Header, block_count, latent_grid, most_latent_bytes
from sdcodec.errors import SdcodecError
from sdcodec.palette.vectors import Palettised
from sdcodec.pixels import Picture, pack_alpha, to_pil, unpack_alpha
from sdcodec.pixels.alpha import most_alpha_bytes
from sdcodec.pixels.png import SIGNATURE
from sdcodec.priors.blocks import Block

MEGABYTE = 1 << 20
QUALITY_INDEX = 200
CHANNELS = 64


class Escapes:
    """A symbol source that escapes a share of the symbols.

    Each has `digits` binary digits beyond its table.
    """

    def __init__(self, tables: FrequencyTables, count: int, digits: int, share: float) -> None:
        """Write the streams of `count` blocks."""
        self._encoders = [SymbolEncoder(tables) for _ in range(count)]
        self._radius = tables.radius
        self._excess, self._share = 1 << (digits - 1), share
        self._random = np.random.default_rng(0)

    def hyper(self, blocks: Sequence[Block], positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """See SymbolSource."""
        indices = tables.cpu().numpy()
        signs = self._random.choice((-1, 1), indices.shape)
        escaped = (self._random.random(indices.shape) < self._share) & (indices > 0)
        symbols = np.where(escaped, signs * (self._radius[indices] + self._excess), 0)
        for block, own, own_tables in zip(blocks, symbols, indices, strict=True):
            self._encoders[block.index].encode(own, own_tables)
        return torch.from_numpy(symbols)

    latents = hyper

    def finish(self) -> tuple[bytes, ...]:
        """Return the bytes of each block."""
        return tuple(encoder.finish() for encoder in self._encoders)


def escaped(codec: sdcodec.Codec, header: Header, digits: int) -> Container:
    """Return a file with as many escapes as the limit of bytes allows."""
    prior = codec._model.prior
    height, width = latent_grid(header.width, header.height)
    share, most = 1.0, most_latent_bytes(header)
    while True:
        source = Escapes(prior.tables, block_count(header.width, header.height), digits, share)
        prior.walk((1, height, width), QUALITY_INDEX, source)
        blocks = source.finish()
        if sum(map(len, blocks)) <= most:
            return Container(header, blocks)
        share *= min(0.9, most / sum(map(len, blocks)))


def unknown_chunks(container: Container, count: int, size: int) -> bytes:
    """Return the file with up to 22 chunks of unknown letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1) if chr(code) not in "iexn"][:count]
    return replace(container, unknown=tuple(Chunk(letter, bytes(size)) for letter in letters)).to_bytes()


def png(width: int, height: int, *, empty: int = 0, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """Return a greyscale PNG of zeros, with `extra` chunks.

    empty: bytes of empty chunks behind its data.
    """
    rows = (1 + width) * height if not interlaced else 2 * (8 + width) * height
    data = zlib.compress(bytes(rows), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlaced)
    made = SIGNATURE + png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", data)
    filling = png_chunk(b"IDAT", b"")
    return made + filling * (empty // len(filling)) + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def texts(count: int) -> bytes:
    """Return compressed texts of a megabyte, four in memory.

    Python stores each character like the longest.
    """
    text = "\U0001f600".encode() + b"a" * (MEGABYTE - 8)
    packed = zlib.compress(text, 9)
    return b"".join(png_chunk(b"iTXt", b"%d\0\1\0\0\0" % number + packed) for number in range(count))


def worst_files(codec: sdcodec.Codec, honest: bytes, side: int) -> dict[str, bytes]:
    """Return the files by their names; the first is the honest one."""
    container = Container.from_bytes(honest)
    header, pixels = container.header, side * side
    thin = replace(header, width=1, height=pixels // 32)
    files = {"honest": honest}
    files |= {f"escapes of {digits} digits": escaped(codec, header, digits).to_bytes() for digits in (1, 4, 21)}
    files |= {
        "thin": codec.encode(_columns(honest, codec, 1), quality=100).data,
        "thin, escapes": escaped(codec, thin, 1).to_bytes(),
        "no bytes": Container(header, (b"",) * block_count(side, side)).to_bytes(),
        "thin, no bytes": Container(thin, (b"",) * block_count(thin.width, thin.height)).to_bytes(),
    }
    palette = _palette(header)
    files |= {
        "palette": replace(container, blocks=(), palette=palette.to_bytes()).to_bytes(),
        "palette, 16 MB of empty blocks": replace(container, blocks=(), palette=_stored(palette)).to_bytes(),
    }
    noise = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    alphas = {
        "noise": pack_alpha(noise),
        "zeros": png(side, side),
        "interlaced": png(side, side, interlaced=True),
        "empty chunks": png(side, side, empty=12 * (most_alpha_bytes(side, side) // 512 - 3)),
        "64 texts": png(side, side, extra=texts(64)),
    }
    files |= {f"alpha: {name}": replace(container, alpha=data).to_bytes() for name, data in alphas.items()}
    large = np.random.default_rng(1).bytes(16 * MEGABYTE)
    tagged = {
        "ICC": replace(container, icc=large),
        "EXIF": replace(container, exif=large),
        "XMP": replace(container, xmp=large),
        "deviations": replace(container, deviations=large),
    }
    files |= {f"16 MB of {name}": own.to_bytes() for name, own in tagged.items()}
    files["22 unknown chunks of 1 MB"] = unknown_chunks(container, 22, MEGABYTE)
    return files


def _columns(honest: bytes, codec: sdcodec.Codec, width: int) -> Image.Image:
    """Return the honest picture cut into columns, one below the other.

    They are `width` wide; the padded size stays.
    """
    pixels = np.asarray(codec.decode(honest).convert("RGB"))
    height = pixels.shape[0] * pixels.shape[1] // 32
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 0, 2).reshape(-1, width, 3)[:height]))


def _palette(header: Header) -> Palettised:
    """Return a palette of 256 random colours, and random choices."""
    random, grid = np.random.default_rng(0), latent_grid(header.width, header.height)
    colours = random.integers(0, 256, (256, CHANNELS), dtype=np.uint8)
    return Palettised(np.zeros(CHANNELS, np.int16), 60, colours, random.integers(0, 256, grid, dtype=np.uint8))


def _stored(palette: Palettised) -> bytes:
    """Return the palette's payload with 16 MB of empty deflate blocks."""
    payload, start = palette.to_bytes(), 3 + 2 * CHANNELS
    return payload[:start] + b"\0\0\0\xff\xff" * (16 * MEGABYTE // 5) + payload[start:]


def parse(data: bytes) -> None:
    """Read all of a file but its latents."""
    container = Container.from_bytes(data)
    header = container.header
    alpha = None if container.alpha is None else unpack_alpha(container.alpha, header.width, header.height)
    if container.palette is not None:
        Palettised.from_bytes(container.palette, CHANNELS, *latent_grid(header.width, header.height))
    if alpha is not None or any((container.icc, container.exif, container.xmp)):
        rgb: NDArray[np.uint8] = np.zeros((header.height, header.width, 3), np.uint8)
        to_pil(Picture(rgb, alpha, container.icc, container.exif, container.xmp))


def seconds(call: Callable[[bytes], object], data: bytes) -> float:
    """Return the processor time of a call; a refusal counts as an end."""
    before = time.process_time()
    with suppress(SdcodecError):
        call(data)
    return time.process_time() - before


def child(path: Path, way: str) -> None:
    """Print the rise of memory while a file is read, and the peak.

    Both in megabytes, of this process.
    """
    codec = sdcodec.Codec("base", device="cpu")
    codec.decode(codec.encode(Image.new("RGB", (32, 32))).data)
    pack_alpha(np.zeros((32, 32), np.uint8))
    data = path.read_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; resource's includes the parent's
    before = peak_memory()
    try:
        (codec.decode if way == "decode" else parse)(data)
    except SdcodecError as error:
        print(f"{path}: {type(error).__name__}: {error}", file=sys.stderr)
    after = peak_memory()
    print(f"{after - before:.1f} {after:.1f}")


def peak_memory() -> float:
    """Return this process's largest resident size in megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def memory(path: Path, way: str) -> tuple[float, float]:
    """Return a fresh process's rise of peak memory, and its peak, in megabytes."""
    command = [sys.executable, __file__, "--child", str(path), "--way", way]
    rise, peak = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return float(rise), float(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, default=Path(__file__).parents[1] / "images" / "raccoon.png")
    parser.add_argument("--side", type=int, default=512, help="of the honest picture, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=("decode", "parse"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.child:
        child(options.child, options.way)
        return
    codec = sdcodec.Codec("base", device="cpu")
    with Image.open(options.image) as image:
        picture = image.convert("RGB").resize((options.side, options.side), Image.Resampling.LANCZOS)
    honest = codec.encode(picture, quality=100).data
    files = worst_files(codec, honest, options.side)
    decoding: dict[str, list[float]] = {name: [] for name in files}
    parsing: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(options.rounds):
        for name, data in files.items():
            decoding[name].append(seconds(codec.decode, data))
            parsing[name].append(seconds(parse, data))
    print(f"{'file':32} {'bytes':>10} {'time':>6} {'memory':>6} | {'all but latents':>8}")
    honest_time, honest_peak = median(decoding["honest"]), 0.0
    for name, data in files.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "file.sdc")
            path.write_bytes(data)
            _, peak = memory(path, "decode")
            rise, _ = memory(path, "parse")
        honest_peak = honest_peak or peak
        print(
            f"{name:32} {len(data):10} {median(decoding[name]) / honest_time:6.2f} {peak / honest_peak:6.2f} | "
            f"{median(parsing[name]):6.3f} s {rise:6.1f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
