"""Damaged files: blocks that are lost, and what is filled in."""

import warnings

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import sdcodec
from conftest import photograph
from sdcodec.concealment import conceal
from sdcodec.container import Container
from sdcodec_cli.main import cli


def test_gaps_are_filled_smoothly_and_the_rest_stays():
    y, x = torch.meshgrid(torch.arange(40), torch.arange(52), indexing="ij")
    values = torch.stack([10 * x + 3 * y, 400 - 5 * y]).to(torch.int32)
    kept = values.clone()
    lost = [(slice(8, 20), slice(8, 24)), (slice(30, 40), slice(44, 52))]
    for rows, columns in lost:
        values[:, rows, columns] = -9999
    conceal(values, lost)
    known = torch.ones(40, 52, dtype=torch.bool)
    for rows, columns in lost:
        known[rows, columns] = False
    assert torch.equal(values[:, known], kept[:, known])
    assert (values[:, 8:20, 8:24] - kept[:, 8:20, 8:24]).abs().max() < 60
    assert values[:, ~known].min() >= 0
    assert values[:, ~known].max() <= kept.max()


BLOCKS = 3, 4  # rows and columns
HEIGHT, WIDTH = 1504, 2000
RIM = 32  # latents around a lost block that may change


@pytest.fixture(scope="module")
def codec(random_bundle):
    return sdcodec.Codec(random_bundle, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def large(codec) -> bytes:
    return codec.encode(np.tile(photograph(376, 500), (4, 4, 1)), quality=30, effort=0).data


def damaged(data: bytes, index: int) -> bytes:
    block = Container.from_bytes(data).blocks[index]
    assert data.count(block) == 1
    place = data.index(block) + len(block) // 2
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def test_each_block_of_a_large_file_can_be_lost(codec, large):
    whole = np.asarray(codec.decode(large))
    margin = 8 * (RIM + codec._model.autoencoder.margin)
    for index in range(BLOCKS[0] * BLOCKS[1]):
        broken = damaged(large, index)
        with pytest.raises(sdcodec.FormatError, match=f"block {index} "):
            codec.decode(broken)
        with pytest.warns(sdcodec.SdcodecWarning, match=f"recovered without block {index}$"):
            found = np.asarray(codec.decode(broken, recover=True))
        row, column = divmod(index, BLOCKS[1])
        near = np.zeros((HEIGHT, WIDTH), bool)
        near[
            max(0, 512 * row - margin) : 512 * (row + 1) + margin,
            max(0, 512 * column - margin) : 512 * (column + 1) + margin,
        ] = True
        assert (found == whole)[~near].all()
        assert (found != whole)[near].any()


def test_intact_files_are_recovered_without_a_word(codec, large):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert codec.decode(large, recover=True).tobytes() == codec.decode(large).tobytes()


def test_a_cut_file_shows_its_first_blocks(codec, large):
    whole = np.asarray(codec.decode(large))
    with pytest.warns(sdcodec.SdcodecWarning, match="recovered without the end of the file, block"):
        found = np.asarray(codec.decode(large[: len(large) // 2], recover=True))
    assert (found[:256, :256] == whole[:256, :256]).all()
    assert (found[-64:] != whole[-64:]).any()


def test_the_command_writes_the_picture_and_fails(codec, large, random_bundle, tmp_path):
    (tmp_path / "broken.sdc").write_bytes(damaged(large, 5))
    arguments = ["decode", str(tmp_path / "broken.sdc"), "-o", str(tmp_path / "x.png"), "--model", str(random_bundle)]
    plain = CliRunner().invoke(cli, arguments)
    assert plain.exit_code == 1 and not (tmp_path / "x.png").exists()
    found = CliRunner().invoke(cli, [*arguments, "--recover", "--device", "cpu"])
    assert found.exit_code == 1
    assert "broken.sdc: warning: damaged; recovered without block 5" in found.output
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (WIDTH, HEIGHT)
