"""Parts of an `.sdc` file as they are read: numbers, chunks and blocks."""

from __future__ import annotations

import binascii
import zlib

from sdcodec.errors import FormatError

CHECK_BYTES = 2
END_MARK = 0  # where the letter of a chunk would be

Latents = tuple[tuple[bytes, ...], frozenset[int]]  # blocks, and indices of damaged ones


def check(*parts: bytes) -> bytes:
    """Return the CRC-16/CCITT-FALSE of the parts together, big-endian."""
    value = 0xFFFF
    for part in parts:
        value = binascii.crc_hqx(part, value)
    return value.to_bytes(CHECK_BYTES, "big")


def leb128(value: int) -> bytes:
    """Return a number of at least 0 as LEB128."""
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


class ChunkReader:
    """Reader that takes bytes from the front and never beyond the end.

    Faults raise FormatError; with `recover` they end up in `lost`, if more can be read after them.
    """

    def __init__(self, data: bytes, position: int, *, recover: bool = False) -> None:
        self._data, self.position, self._recover = data, position, recover
        self.lost: list[str] = []
        self.trailing = 0  # bytes behind the end

    def complain(self, message: str, lost: str) -> None:
        """Raise the message, or note what is lost."""
        if not self._recover:
            raise FormatError(f"damaged: {message}; get the file again")
        self.lost.append(lost)

    def tag(self) -> str | None:
        """Return the letter of the next chunk, or None at the end."""
        if self.position == len(self._data):
            self.complain("it ends too early (cut short)", "the end of the file")
            return None
        tag = self.take(1)[0]
        if tag == END_MARK:
            self._end()
            return None
        if not (chr(tag).isascii() and chr(tag).isalpha()):
            self.complain(f"{tag:#04x} is no letter of a chunk", "the chunks behind a damaged one")
            self.position = len(self._data)
            return None
        return chr(tag)

    def _end(self) -> None:
        """Compare the checksum of the whole file, and count the bytes behind it."""
        checked = zlib.crc32(memoryview(self._data)[: self.position]).to_bytes(4, "big")
        found = self._data[self.position : self.position + len(checked)]
        self.position += len(found)
        self.trailing = len(self._data) - self.position
        if found != checked and not self.lost:
            self.complain("the checksum of the file does not match (cut short or changed)", "the file's checksum")

    def payload(self, tag: str, name: str) -> bytes | None:
        """Return the payload of a chunk whose letter was read; None if it is lost."""
        start = self.position - 1
        try:
            length, found = self.leb128(), self.take(CHECK_BYTES)
            opening = self._data[start : self.position - CHECK_BYTES]
            payload = self.take(length)
        except FormatError:
            if not self._recover:
                raise
            self.lost.append(name)
            self.position = len(self._data)
            return None
        if check(opening, payload) != found:
            self.complain(f"chunk {name!r} does not match its checksum", name)
            return None
        return payload

    def latents(self, count: int, most_bytes: int) -> Latents | None:
        """Return the blocks of a chunk L, whose letter was read.

        None if their index is lost. Raises FormatError for more than `most_bytes` bytes in all blocks together.
        """
        start = self.position - 1
        length, found = self.leb128(), self.take(CHECK_BYTES)
        opening, begin = self._data[start : self.position - CHECK_BYTES], self.position
        end = begin + length
        if count > 1 and 3 * count > length:  # before anything is made that is as long as a damaged header says
            raise FormatError(f"damaged: {length} bytes cannot hold {count} blocks; get the file again")
        if end > len(self._data):
            self.complain("it ends too early (cut short)", "the end of the file")
        index = [
            (self.leb128() if count > 1 else max(0, length - CHECK_BYTES), self.take(CHECK_BYTES)) for _ in range(count)
        ]
        if check(opening + self._data[begin : self.position]) != found:
            self.complain("the index of the latents does not match its checksum", "the latents")
            self.position = min(end, len(self._data))
            return None
        if self.position + sum(size for size, _ in index) != end:
            raise FormatError("damaged: its blocks are not as long as their chunk; get the file again")
        if end - self.position > most_bytes:
            raise FormatError("damaged: its latents have more bytes than its pixels; get the file again")
        blocks, damaged = [], set()
        for number, (size, own_check) in enumerate(index):
            block = self._data[self.position : self.position + size]
            self.position += len(block)
            if check(block) != own_check or len(block) < size:
                self.complain(f"block {number} does not match its checksum", f"block {number}")
                damaged.add(number)
            blocks.append(block)
        return tuple(blocks), frozenset(damaged)

    def take(self, count: int) -> bytes:
        """Return the next bytes. Raises FormatError if there are fewer."""
        if count > len(self._data) - self.position:
            raise FormatError("damaged: it ends too early (cut short); get the file again")
        self.position += count
        return self._data[self.position - count : self.position]

    def leb128(self) -> int:
        """Return the next number.

        Raises FormatError if it is not in the shortest form, or too long.
        """
        value = 0
        for place in range(5):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << (7 * place)
            if not byte & 0x80:
                if place and not byte:
                    raise FormatError("damaged: a number is written with more bytes than it needs; get the file again")
                return value
        raise FormatError("damaged: a number is longer than five bytes; get the file again")
