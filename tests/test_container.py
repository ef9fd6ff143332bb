"""The file: what is written is read back, and nothing else is accepted."""

from __future__ import annotations

import zlib

import pytest

from sdcodec.constants import QUALITY_LEVELS
from sdcodec.container import FACTORS, Chunk, Container, Header, block_count, block_grid, latent_grid, padded_size
from sdcodec.errors import FormatError, UnsupportedVersionError

HEADER = Header(b"\x01\x02\x03\x04", 90, 512, 512)
FILE = Container(HEADER, (b"latents",))


def with_checksum(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "big")


def test_a_file_is_read_as_it_was_written():
    whole = Container(HEADER, (b"latents",), b"alpha", b"icc", b"exif", b"xmp", (Chunk("z", b"later"),))
    assert Container.from_bytes(whole.to_bytes()) == whole
    assert Container.from_bytes(FILE.to_bytes()) == FILE


def test_fixed_cost_for_512_by_512_is_below_24_bytes():
    block = bytes(5000)
    assert len(Container(HEADER, (block,)).to_bytes()) - len(block) <= 24


@pytest.mark.parametrize("size", [(1, 1), (513, 512), (1, 5000), (6000, 4000)])
def test_any_number_of_blocks_survives(size):
    width, height = size
    blocks = tuple(bytes([i % 256]) * (i % 300) for i in range(block_count(width, height)))
    container = Container(Header(b"abcd", 200, width, height), blocks)
    assert Container.from_bytes(container.to_bytes()) == container


def test_geometry():
    assert [padded_size(n) for n in (1, 32, 33, 512)] == [32, 32, 64, 512]
    assert block_grid(513, 512) == (1, 2)
    assert block_grid(6000, 4000) == (8, 12)
    assert [padded_size(33, factor) for factor in FACTORS] == [64, 64, 128, 48]
    assert latent_grid(600, 100, 32) == (4, 20)
    assert block_grid(6000, 4000, 32) == (2, 3)


@pytest.mark.parametrize("factor", FACTORS)
def test_pixels_a_latent_are_in_the_file(factor):
    header = Header(b"abcd", 90, 3000, 1000, factor=factor)
    blocks = tuple(bytes([i]) * i for i in range(block_count(3000, 1000, factor)))
    assert Container.from_bytes(Container(header, blocks).to_bytes()) == Container(header, blocks)


def test_files_at_one_eighth_are_as_they_always_were():
    assert FILE.to_bytes()[4] == 0x10


def test_every_truncation_is_refused():
    data = FILE.to_bytes()
    for length in range(len(data)):
        with pytest.raises(FormatError):
            Container.from_bytes(data[:length])


def test_every_flipped_bit_is_refused():
    data = FILE.to_bytes()
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            with pytest.raises(FormatError):
                Container.from_bytes(bytes(changed))


def test_appended_bytes_are_refused():
    with pytest.raises(FormatError, match="appended"):
        Container.from_bytes(FILE.to_bytes() + b"\0")


def test_a_future_version_is_named():
    data = bytearray(FILE.to_bytes())
    data[4] = 2 << 4
    with pytest.raises(UnsupportedVersionError, match="version 2"):
        Container.from_bytes(bytes(data))


def test_flags_of_the_future_are_refused():
    for flag in (4, 8):
        body = bytearray(FILE.to_bytes()[:-4])
        body[4] |= flag
        with pytest.raises(UnsupportedVersionError, match="flags"):
            Container.from_bytes(with_checksum(bytes(body)))


def test_unknown_chunks_are_skipped_if_ancillary_and_refused_if_critical():
    body = FILE.to_bytes()[:-4]
    assert Container.from_bytes(with_checksum(body + b"z\x02hi")).unknown == (Chunk("z", b"hi"),)
    with pytest.raises(UnsupportedVersionError, match="'Z'"):
        Container.from_bytes(with_checksum(body + b"Z\x02hi"))


@pytest.mark.parametrize(
    ("tail", "complaint"),
    [
        (b"i\x05ab", "ends too early"),
        (b"\x07\x00", "letter"),
        (b"i\x01ai\x01b", "two chunks"),
        (b"i\x81\x00a", "more bytes than it needs"),
        (b"i\xff\xff\xff\xff\xff\x01a", "longer than five"),
    ],
)
def test_faults_behind_a_right_checksum_are_refused(tail, complaint):
    with pytest.raises(FormatError, match=complaint):
        Container.from_bytes(with_checksum(FILE.to_bytes()[:-4] + tail))


def test_a_file_without_latents_is_refused():
    body = FILE.to_bytes()[:-4]
    with pytest.raises(FormatError, match="no latents"):
        Container.from_bytes(with_checksum(body[: body.index(b"L\x07")]))


@pytest.mark.parametrize("change", [{"quality_index": QUALITY_LEVELS}, {"width": 0}, {"height": (1 << 24) + 1}])
def test_headers_out_of_range_are_refused(change):
    header = Header(**{"fingerprint": b"abcd", "quality_index": 1, "width": 1, "height": 1} | change)
    with pytest.raises(FormatError, match="damaged"):
        Container.from_bytes(Container(header, (b"",)).to_bytes())


def test_a_huge_size_in_a_small_file_is_refused_before_memory_is_asked_for():
    data = Container(Header(b"abcd", 1, 1 << 24, 1 << 24), (b"x",)).to_bytes()
    with pytest.raises(FormatError, match="cannot hold"):
        Container.from_bytes(data)


def test_a_damaged_block_among_several_is_named():
    data = bytearray(Container(Header(b"abcd", 1, 1024, 512), (b"first", b"second")).to_bytes())
    data[data.index(b"second")] ^= 1
    with pytest.raises(FormatError, match="block 1"):
        Container.from_bytes(with_checksum(bytes(data[:-4])))
