"""The file: what is written is read back, and nothing else is accepted."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest

from sdcodec.chunk_reader import check
from sdcodec.constants import QUALITY_LEVELS
from sdcodec.container import (
    FACTORS,
    Chunk,
    Container,
    Header,
    block_count,
    block_grid,
    latent_grid,
    padded_size,
    read_header,
)
from sdcodec.errors import FormatError, UnsupportedVersionError

HEADER = Header(b"\x01\x02\x03\x04", 90, 512, 512)
FILE = Container(HEADER, (b"latents",))


WHOLE = Container(HEADER, (b"latents",), b"alpha", b"icc", b"exif", b"xmp", (Chunk("z", b"later"),))
TWO = Container(Header(b"abcd", 1, 1024, 512), (b"first", b"second"), b"alpha", xmp=b"xmp")


def ended(body: bytes) -> bytes:
    """Close a file that lacks its end mark and its checksum."""
    return body + b"\0" + zlib.crc32(body + b"\0").to_bytes(4, "big")


def chunk(letter: bytes, payload: bytes, length: bytes | None = None) -> bytes:
    opening = letter + (length or bytes([len(payload)]))
    return opening + check(opening + payload) + payload


def without_end(container: Container) -> bytes:
    return container.to_bytes()[:-5]


def test_a_file_is_read_as_it_was_written():
    for container in (WHOLE, FILE, TWO):
        assert Container.from_bytes(container.to_bytes()) == container
    assert Container.from_bytes(WHOLE.to_bytes()).header.alpha


def test_fixed_cost_for_512_by_512_is_at_most_28_bytes():
    block = bytes(5000)
    assert len(Container(HEADER, (block,)).to_bytes()) - len(block) == 28


def test_size_alpha_and_metadata_are_known_before_the_pixels():
    data = WHOLE.to_bytes()
    header, position = read_header(data[:18])
    assert (header.width, header.height, header.alpha, position) == (512, 512, True, 16)
    order = [data.index(text) for text in (b"icc", b"exif", b"xmp", b"later", b"latents", b"alpha")]
    assert order == sorted(order)


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


def test_the_fifth_byte_has_version_and_flags():
    assert FILE.to_bytes()[4] == 0x20


@pytest.mark.parametrize("container", [FILE, WHOLE, TWO], ids=["one block", "with chunks", "two blocks"])
def test_every_truncation_and_every_flipped_bit_is_refused(container):
    data = container.to_bytes()
    for length in range(len(data)):
        with pytest.raises(FormatError):
            Container.from_bytes(data[:length])
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            with pytest.raises(FormatError):
                Container.from_bytes(bytes(changed))


def test_bytes_behind_the_end_are_counted_and_ignored():
    assert Container.from_bytes(FILE.to_bytes() + b"more") == replace(FILE, trailing=4)


@pytest.mark.parametrize(("version", "remedy"), [(1, "encode the picture again"), (3, "newer sdcodec")])
def test_other_versions_are_named(version, remedy):
    data = bytearray(FILE.to_bytes())
    data[4] = version << 4
    with pytest.raises(UnsupportedVersionError, match=f"version {version}; .*{remedy}"):
        Container.from_bytes(bytes(data))


def test_flags_of_the_future_are_refused():
    start = bytearray(FILE.to_bytes()[:14])
    start[4] |= 8
    with pytest.raises(UnsupportedVersionError, match="flags"):
        Container.from_bytes(bytes(start) + check(bytes(start)) + FILE.to_bytes()[16:])


def test_unknown_chunks_are_skipped_if_ancillary_and_refused_if_critical():
    body = without_end(FILE)
    assert Container.from_bytes(ended(body + chunk(b"z", b"hi"))).unknown == (Chunk("z", b"hi"),)
    with pytest.raises(UnsupportedVersionError, match="'Z'"):
        Container.from_bytes(ended(body + chunk(b"Z", b"hi")))


@pytest.mark.parametrize(
    ("tail", "complaint"),
    [
        (b"i\x20\0\0ab", "ends too early"),
        (chunk(b"\x07", b""), "letter"),
        (chunk(b"i", b"a") + chunk(b"i", b"b"), "two chunks"),
        (chunk(b"L", b"\xff\xffblock"), "two chunks"),
        (chunk(b"z", b"a") + chunk(b"z", b"b"), "two chunks 'z'"),
        (chunk(b"i", b"a", b"\x81\x00"), "more bytes than it needs"),
        (chunk(b"i", b"a", b"\xff\xff\xff\xff\xff\x01"), "longer than five"),
        (b"i\x01\0\0a", "'ICC profile' does not match"),
        (chunk(b"A", b"alpha"), "alpha channel"),
        (chunk(b"P", b"palette"), "two kinds"),
    ],
)
def test_faults_behind_right_checksums_are_refused(tail, complaint):
    with pytest.raises(FormatError, match=complaint):
        Container.from_bytes(ended(without_end(FILE) + tail))


def test_a_file_without_latents_is_refused():
    body = FILE.to_bytes()
    with pytest.raises(FormatError, match="no latents"):
        Container.from_bytes(ended(body[: body.index(b"L\x09")]))


@pytest.mark.parametrize("change", [{"quality_index": QUALITY_LEVELS}, {"width": 0}, {"height": (1 << 24) + 1}])
def test_headers_out_of_range_are_refused(change):
    header = Header(**{"fingerprint": b"abcd", "quality_index": 1, "width": 1, "height": 1} | change)
    with pytest.raises(FormatError, match="damaged"):
        Container.from_bytes(Container(header, (b"",)).to_bytes())


def test_a_huge_size_in_a_small_file_is_refused_before_memory_is_asked_for():
    data = Container(Header(b"abcd", 1, 1 << 24, 1 << 24), (b"x",)).to_bytes()
    with pytest.raises(FormatError, match="cannot hold"):
        Container.from_bytes(data)


def test_lengths_of_blocks_have_to_fill_their_chunk():
    index = b"".join(bytes([len(block)]) + check(block) for block in TWO.blocks)
    opening = b"L" + bytes([len(index) + len(b"firstsecond!")])
    before, _ = TWO.to_bytes().split(b"L", 1)
    data = ended(before + opening + check(opening + index) + index + b"firstsecond!")
    with pytest.raises(FormatError, match="not as long as"):
        Container.from_bytes(data)


def test_more_bytes_than_pixels_have_are_refused():
    """They would take longer to decode than any picture of that size."""
    header = Header(b"abcd", 1, 40, 30)
    assert Container.from_bytes(Container(header, (bytes(3 * 32 * 32),)).to_bytes()).blocks
    with pytest.raises(FormatError, match="more bytes than its pixels"):
        Container.from_bytes(Container(header, (bytes(3 * 32 * 32 + 1),)).to_bytes())


def damaged(container: Container, part: bytes) -> bytes:
    data = bytearray(container.to_bytes())
    data[data.index(part)] ^= 1
    return bytes(data)


def test_a_damaged_block_is_named_and_the_others_are_recovered():
    with pytest.raises(FormatError, match="block 1"):
        Container.from_bytes(damaged(TWO, b"second"))
    found = Container.from_bytes(damaged(TWO, b"second"), recover=True)
    assert found.damaged == {1} and found.lost == ("block 1",)
    assert found.alpha == TWO.alpha and found.blocks[0] == TWO.blocks[0]


def test_a_file_without_an_intact_block_cannot_be_recovered():
    with pytest.raises(FormatError, match="no block of latents is intact"):
        Container.from_bytes(damaged(FILE, b"latents"), recover=True)


def test_a_damaged_chunk_is_named_and_the_rest_is_recovered():
    with pytest.raises(FormatError, match="'XMP' does not match"):
        Container.from_bytes(damaged(TWO, b"xmp"))
    found = Container.from_bytes(damaged(TWO, b"xmp"), recover=True)
    assert found == replace(TWO, xmp=None, lost=("XMP",))
    found = Container.from_bytes(damaged(TWO, b"alpha"), recover=True)
    assert found == replace(TWO, alpha=None, lost=("alpha", "the alpha channel"))


def test_every_cut_file_is_recovered_from_its_first_block_on():
    data = TWO.to_bytes()
    for length in range(len(data)):
        try:
            found = Container.from_bytes(data[:length], recover=True)
        except FormatError:
            assert length < data.index(b"first") + len(b"first")
            continue
        assert found.lost
        assert found.damaged == {
            number for number, block in enumerate(TWO.blocks) if length < data.index(block) + len(block)
        }


def test_a_damaged_header_cannot_be_recovered():
    data = bytearray(TWO.to_bytes())
    data[11] ^= 1
    with pytest.raises(FormatError, match="header"):
        Container.from_bytes(bytes(data), recover=True)
