"""Arguments of the library: each kind of its types, and wrong ones with a remedy."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sdcodec
from conftest import photograph
from sdcodec import Codec
from sdcodec.container import Container
from sdcodec.errors import FormatTypeError, ImageTypeError, OptionError, SdcodecError

PIXELS = photograph(40, 48)


def png(exif: bool = False) -> bytes:
    buffer = io.BytesIO()
    described = Image.Exif()
    if exif:
        described[0x010E] = "a long description " * 40
    Image.fromarray(PIXELS).save(buffer, "PNG", exif=described)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def codec(random_bundle: Path) -> Codec:
    return Codec(random_bundle, device="cpu", precision="float32")


@pytest.fixture
def encode(random_bundle: Path) -> Callable[..., bytes]:
    def encode(image: Any, **options: Any) -> bytes:
        return sdcodec.encode(image, model=random_bundle, device="cpu", precision="float32", **options)

    return encode


@pytest.fixture
def decode(random_bundle: Path) -> Callable[..., Image.Image]:
    def decode(data: Any, **options: Any) -> Image.Image:
        return sdcodec.decode(data, model=random_bundle, device="cpu", precision="float32", **options)

    return decode


class Unseekable(io.RawIOBase):
    """A stream that cannot be rewound, such as a pipe."""

    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._inner.readinto(buffer)


def at_its_end(data: bytes) -> io.BytesIO:
    file = io.BytesIO(data)
    file.read()
    return file


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


KINDS: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda data, folder: data,
    "bytearray": lambda data, folder: bytearray(data),
    "memoryview": lambda data, folder: memoryview(data),
    "memoryview with gaps": lambda data, folder: memoryview(b"".join(bytes([b, 0]) for b in data))[::2],
    "str": lambda data, folder: str(written(folder, "file", data)),
    "Path": lambda data, folder: written(folder, "file", data),
    "file": lambda data, folder: open(written(folder, "file", data), "rb"),  # noqa: SIM115
    "BytesIO": lambda data, folder: io.BytesIO(data),
    "BytesIO at its end": lambda data, folder: at_its_end(data),
    "stream": lambda data, folder: Unseekable(data),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_images(codec: Codec, encode: Callable[..., bytes], tmp_path: Path, kind: str) -> None:
    expected = codec.encode(PIXELS).data

    def image() -> Any:
        return KINDS[kind](png(), tmp_path)

    assert codec.encode(image()).data == expected == encode(image())
    assert [own.data for own in codec.encode_batch([image(), PIXELS])] == [expected, expected]
    assert codec.round_trip(image()).tobytes() == codec.round_trip(PIXELS).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_sdc_data(codec: Codec, decode: Callable[..., Image.Image], tmp_path: Path, kind: str) -> None:
    data = codec.encode(PIXELS).data
    expected = codec.decode(data).tobytes()

    def source() -> Any:
        return KINDS[kind](data, tmp_path)

    assert codec.decode(source()).tobytes() == expected == decode(source()).tobytes()
    assert [own.tobytes() for own in codec.decode_batch([source(), data])] == [expected, expected]
    assert np.array_equal(codec.symbols(source()), codec.symbols(data))
    assert codec.symbols_sha256(source()) == codec.symbols_sha256(data)
    assert Codec.for_file(source(), model=codec._bundle.folder, device="cpu").name == codec.name


def test_an_encoded_picture_and_keywords_are_decoded(codec: Codec) -> None:
    encoded = codec.encode(image=PIXELS)
    assert codec.decode(data=encoded).tobytes() == codec.decode(encoded.data).tobytes()


@pytest.mark.parametrize("batch", [list, tuple, iter])
def test_kinds_of_batches(codec: Codec, batch: Callable[..., Any]) -> None:
    files = [own.data for own in codec.encode_batch(batch([PIXELS, PIXELS]))]
    assert len(codec.decode_batch(batch(files))) == 2


METADATA: list[tuple[Any, set[str]]] = [
    ("none", set()),
    ((), set()),
    ("all", {"e"}),
    ("exif", {"e"}),
    ("icc, exif", {"e"}),
    (["exif", "xmp"], {"e"}),
    (("exif",), {"e"}),
    ({"exif"}, {"e"}),
    (frozenset({"exif"}), {"e"}),
    ({"exif": True}, {"e"}),
    (iter(["exif"]), {"e"}),
]


@pytest.mark.parametrize(("kinds", "tags"), METADATA)
def test_kinds_of_metadata(codec: Codec, kinds: Any, tags: set[str]) -> None:
    container = Container.from_bytes(codec.encode(png(exif=True), metadata=kinds).data)
    assert {chunk.tag for chunk in container.chunks()} == {"L"} | tags


@pytest.mark.parametrize(
    "options",
    [
        {"quality": np.float32(30)},
        {"quality": np.int64(30)},
        {"quality": 30, "effort": np.int8(0), "max_pixels": np.int64(10_000), "frame": np.int64(0)},
    ],
)
def test_numbers_of_numpy(codec: Codec, options: dict[str, Any]) -> None:
    assert codec.encode(PIXELS, **options).data == codec.encode(PIXELS, quality=30).data


@pytest.mark.parametrize("budget", [{"target_bytes": np.int32(900)}, {"target_bpp": np.float32(3)}])
def test_budgets_of_numpy(codec: Codec, budget: dict[str, Any]) -> None:
    assert len(codec.encode(PIXELS, **budget).data) <= 900


@pytest.mark.parametrize("budget", [{"target_bytes": 10**400}, {"target_bpp": 1e308}, {"target_bpp": 10**400}])
@pytest.mark.parametrize("options", [{"effort": 4}, {"mode": "palette"}])
def test_boundless_budgets(codec: Codec, budget: dict[str, Any], options: dict[str, Any]) -> None:
    assert codec.encode(PIXELS, **budget, **options).data


@pytest.mark.parametrize("options", [{"effort": 0}, {"effort": 4}, {"mode": "palette"}])
def test_a_budget_below_one_byte(codec: Codec, options: dict[str, Any]) -> None:
    with pytest.raises(
        sdcodec.BudgetError, match=r"^0 bytes are too few: this picture needs about \d+ bytes"
    ) as caught:
        codec.encode(PIXELS[:1, :1], target_bpp=0.5, **options)
    assert caught.value.budget == 0 and caught.value.needed > 10


@pytest.mark.parametrize("options", [{}, {"mode": "palette"}])
def test_a_budget_error_states_the_shares_of_the_file(codec: Codec, options: dict[str, Any]) -> None:
    described = Container.from_bytes(codec.encode(png(exif=True), metadata="all").data)
    assert described.exif is not None
    with pytest.raises(sdcodec.BudgetError) as caught:
        codec.encode(png(exif=True), metadata="all", target_bytes=500, **options)
    assert f"of these {len(described.exif)} EXIF, " in str(caught.value)
    assert str(caught.value).endswith("header and checksums; give more, or leave the metadata out")
    alpha = np.dstack([PIXELS, np.arange(40 * 48).reshape(40, 48) % 251]).astype(np.uint8)
    with pytest.raises(sdcodec.BudgetError, match=r"of these \d+ alpha, \d+ header and checksums; give more$"):
        codec.encode(alpha, target_bytes=50, **options)


def test_errors_name_the_file(codec: Codec, decode: Callable[..., Image.Image], tmp_path: Path) -> None:
    broken = written(tmp_path, "broken.sdc", b"\x89SDC nothing")
    for function in (codec.decode, decode, codec.symbols, codec.symbols_sha256, Codec.for_file):
        with pytest.raises(sdcodec.FormatError, match=f"^{broken}: "):
            function(broken)
        with pytest.raises(sdcodec.FormatError, match=f"^{broken}: "), open(broken, "rb") as file:
            function(file)
    with pytest.raises(sdcodec.FormatError, match=f"^{broken}: "):
        codec.decode_batch([codec.encode(PIXELS).data, broken])
    picture = written(tmp_path, "picture.png", png())
    with pytest.raises(sdcodec.BudgetError, match=f"^{picture}: 20 bytes are too few"):
        codec.encode(picture, target_bytes=20)


def closed() -> io.BytesIO:
    file = io.BytesIO(png())
    file.close()
    return file


NO_SOURCES: dict[str, tuple[Callable[[], Any], str]] = {
    "None": (lambda: None, "NoneType"),
    "a number": (lambda: 7, "int"),
    "a text stream": (lambda: io.StringIO("text"), "open it for binary reading"),
    "a closed file": (closed, "open it for binary reading"),
    "a missing file": (lambda: "missing", "missing: no such file"),
    "a folder": (lambda: os.path.dirname(__file__), "is a folder; give"),
    "an impossible path": (lambda: "a\0b", "cannot be read"),
    "no bytes": (lambda: b"", "empty|not an .sdc file"),
}


@pytest.mark.parametrize("kind", NO_SOURCES)
def test_other_sources_raise_an_error_with_a_remedy(
    codec: Codec, encode: Callable[..., bytes], decode: Callable[..., Image.Image], kind: str
) -> None:
    make, message = NO_SOURCES[kind]
    for function in (encode, codec.encode, codec.round_trip, lambda own: codec.encode_batch([own])):
        with pytest.raises(sdcodec.ImageError, match=message):
            function(make())
    for function in (
        decode,
        codec.decode,
        codec.symbols,
        codec.symbols_sha256,
        Codec.for_file,
        lambda own: codec.decode_batch([own]),
    ):
        with pytest.raises(sdcodec.FormatError, match=message):
            function(make())


def test_wrong_types_are_type_errors() -> None:
    assert issubclass(FormatTypeError, TypeError) and issubclass(ImageTypeError, TypeError)
    with pytest.raises(TypeError):
        sdcodec.decode(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("single", ["photo.png", b"data", Path("photo.png"), io.BytesIO(), None, 7])
def test_one_source_is_no_batch(codec: Codec, single: Any) -> None:
    for function in (codec.encode_batch, codec.decode_batch):
        with pytest.raises(OptionError, match=r"is a single .*; give a list"):
            function(single)


WRONG: list[dict[str, Any]] = [
    *({"quality": value} for value in ("50", [50], True, float("nan"), 101, -0.5, 1j)),
    *({"target_bytes": value} for value in ("500", 500.0, True, 0, -1)),
    *({"target_bpp": value} for value in ("1", True, 0, float("nan"), float("inf"))),
    *({"effort": value} for value in ("4", 4.0, True, 10, -1, [4])),
    *({"mode": value} for value in ("pixels", None, 3, [])),
    *({"metadata": value} for value in ("everything", ["jpeg"], 3, None, [["icc"]], [3])),
    *({"max_pixels": value} for value in (0, -1, "many", 1e6, True)),
    *({"frame": value} for value in (-1, 5, "first", 0.0, True)),
    {"quality": 50, "target_bytes": 500},
]


@pytest.mark.parametrize("options", WRONG, ids=repr)
def test_wrong_options_of_encoding(codec: Codec, encode: Callable[..., bytes], options: dict[str, Any]) -> None:
    for function in (encode, codec.encode):
        with pytest.raises(OptionError) as caught:
            function(png(), **options)
        assert next(iter(options)) in str(caught.value)


WRONG_DECODING: list[dict[str, Any]] = [
    *({"max_pixels": value} for value in (0, -1, "many", 1e6)),
    *({"denoise": value} for value in (-1, "4", 4.0, None, True)),
    *({"strength": value} for value in (-1, "auto", float("nan"), float("inf"))),
    *({"seed": value} for value in (-1, "1", 1.0, 1 << 63, None)),
]


@pytest.mark.parametrize("options", WRONG_DECODING, ids=repr)
def test_wrong_options_of_decoding(codec: Codec, decode: Callable[..., Image.Image], options: dict[str, Any]) -> None:
    data = codec.encode(PIXELS).data
    for function in (decode, codec.decode, lambda own, **wrong: codec.decode_batch([own], **wrong)):
        with pytest.raises(OptionError, match=next(iter(options))):
            function(data, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": 7}, "model 7 is not a name"),
        ({"model": ""}, "unknown model"),
        ({"model": "nonesuch"}, "unknown model 'nonesuch'"),
        ({"model": "no/such/folder"}, "no model"),
        ({"model": "n" * 300}, "unknown model"),
        ({"device": "abacus"}, "choose cpu or auto"),
        ({"device": "meta"}, "choose cpu or auto"),
        ({"device": None}, "choose cpu or auto"),
        ({"device": []}, "choose cpu or auto"),
        ({"precision": "float8"}, "choose auto, float32"),
        ({"precision": None}, "choose auto, float32"),
        ({"precision": []}, "choose auto, float32"),
        ({"device": "cpu", "offload": True}, "leave it out"),
    ],
)
def test_wrong_options_of_a_codec(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SdcodecError, match=message):
        Codec(**options)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_above_the_limit_state_the_limit_that_is_to_be_raised(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in (100, 1000, 40 * 48 - 1):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # above twice its value, Pillow itself refuses images
        with pytest.raises(sdcodec.ImageError, match=rf"limit of {limit}.*; raise --max-pixels \(max_pixels\)"):
            codec.encode(png(), max_pixels=limit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(sdcodec.ImageError, match=r"raise PIL\.Image\.MAX_IMAGE_PIXELS"):
        codec.encode(png())
