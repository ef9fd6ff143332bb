"""Pillow plugin: opening, drafts, damage, processes and threads."""

from __future__ import annotations

import contextlib
import copy
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps

import sdcodec
import sdcodec.pillow
from conftest import photograph
from sdcodec.container import MAGIC, Chunk, Container, Header, read_prefix
from sdcodec.pixels.metadata import EXIF_PREFIX

GOLDEN = next((Path(__file__).parent / "golden").iterdir())
EXIF = Image.Exif()
EXIF[271] = "Maker"
TIFF = EXIF.tobytes().removeprefix(EXIF_PREFIX)
HEADER = 14  # bytes of the header of these small pictures
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>\0\0"


@pytest.fixture(scope="module", autouse=True)
def _installed(random_bundle: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDCODEC_HOME", str(random_bundle.parent))
        yield


@pytest.fixture(scope="module")
def data(random_bundle: Path) -> bytes:
    """Encode 65 x 48 pixels."""
    return sdcodec.encode(photograph(48, 65), model="random", effort=0)


@pytest.fixture(scope="module")
def transparent(random_bundle: Path) -> bytes:
    """Encode 65 x 48 pixels with alpha."""
    alpha = np.broadcast_to(np.arange(65, dtype=np.uint8)[None, :, None] * 3, (48, 65, 1))
    return sdcodec.encode(np.concatenate([photograph(48, 65), alpha], axis=2), model="random", effort=0)


@pytest.fixture
def path(data: bytes, tmp_path: Path) -> Path:
    file = tmp_path / "photo.sdc"
    file.write_bytes(data)
    return file


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def with_header(**changes: int) -> bytes:
    return Container(Header(b"abcd", 50, **({"width": 8, "height": 8} | changes)), (b"1234",)).to_bytes()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    decode = sdcodec.decode
    monkeypatch.setattr(sdcodec, "decode", lambda *a, **k: calls.append(1) or decode(*a, **k))
    return calls


def test_questions_about_the_header_load_no_torch():
    code = f"""
import sys
import sdcodec.pillow
from PIL import Image
for name in ("alpha", "photo-5000"):
    with Image.open({str(GOLDEN)!r} + f"/{{name}}.sdc") as image:
        print(image.size, image.mode, image.format, image.get_format_mimetype(), image.n_frames, dict(image.getexif()))
        image.draft(None, (8, 8))
        image.verify()
assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines() == [
        "(100, 70) RGBA SDC image/x-sdc 1 {}",
        "(512, 512) RGB SDC image/x-sdc 1 {}",
    ], result.stderr


@pytest.mark.parametrize("name", ["alpha", "two-blocks", "one-pixel"])
def test_pixels_are_those_of_decode(name: str):
    file = GOLDEN / f"{name}.sdc"
    with Image.open(file) as image:
        assert np.array_equal(pixels(image), pixels(sdcodec.decode(file, device="cpu")))


def test_opening_reads_no_pixels(data: bytes):
    long = Container.from_bytes(data)
    long = Container(long.header, long.blocks, icc=bytes(3000), exif=TIFF, unknown=(Chunk("q", b"?"),)).to_bytes()
    file = io.BytesIO(long)
    image = Image.open(file)
    assert image.info == {"icc_profile": bytes(3000), "exif": EXIF_PREFIX + TIFF}
    assert file.tell() < 3200


def test_metadata_behind_the_pixels_is_known_after_loading(data: bytes):
    parts = Container.from_bytes(data)
    first, second = (Container(parts.header, parts.blocks, xmp=xmp).to_bytes() for xmp in (None, XMP))
    chunk = second[HEADER : HEADER + len(second) - len(first)]
    body = first[:-5] + chunk + b"\0"
    image = opened(body + zlib.crc32(body).to_bytes(4, "big"))
    assert "xmp" not in image.info
    image.load()
    assert image.info["xmp"] == XMP


def test_a_length_beyond_the_end_allocates_nothing(path: Path, data: bytes):
    path.write_bytes(data[:HEADER] + b"i\xff\xff\xff\xff\x0f" + bytes(17))
    tracemalloc.start()
    try:
        with open(path, "rb") as file:
            assert read_prefix(file)[1] == {}
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> list[IO[bytes]]:
    """Collect the files that are opened from now on."""
    found: list[IO[bytes]] = []
    monkeypatch.setattr(
        "builtins.open", lambda *args, real=open, **kwargs: found.append(real(*args, **kwargs)) or found[-1]
    )
    return found


def test_the_handle_is_closed_once_pixels_are_loaded(path: Path, handles: list[IO[bytes]]):
    image = Image.open(path)
    assert [file.closed for file in handles if file.name == str(path)] == [False]
    image.load()
    assert [file.closed for file in handles if file.name == str(path)] == [True] and image.fp is None
    path.unlink()


def test_the_handle_is_closed_if_opening_fails(tmp_path: Path, handles: list[IO[bytes]]):
    bad = tmp_path / "bad.sdc"
    bad.write_bytes(MAGIC + b"\x20" + bytes(20))
    with pytest.raises(OSError, match=r"bad\.sdc: damaged: the header"):
        Image.open(bad)
    assert [file.closed for file in handles if file.name == str(bad)] == [True]


def test_a_file_object_stays_open_and_can_be_used_again(data: bytes):
    file = io.BytesIO(b"".join([data]))
    first, second = Image.open(file), Image.open(file)
    assert np.array_equal(pixels(first), pixels(second))
    assert not file.closed and file.seek(0) == 0 and file.read() == data


def test_short_reads_are_repeated(data: bytes, tmp_path: Path):
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(7, size) if size and size > 0 else 7)

    assert np.array_equal(pixels(Image.open(Slow(data))), pixels(opened(data)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("photo.sdc", data)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, archive.open("photo.sdc") as member:
        assert np.array_equal(pixels(Image.open(member)), pixels(opened(data)))


def test_a_closed_file_is_an_error_in_a_sentence(path: Path):
    with Image.open(path) as image:
        pass
    with pytest.raises(OSError, match="closed before its pixels were loaded"):
        image.load()
    with open(path, "rb") as file:
        image = Image.open(file)
    with pytest.raises(OSError, match="closed before"):
        image.load()


@pytest.mark.parametrize("position", [-30, -3])
def test_a_damaged_file_opens_and_load_raises_oserror(position: int, path: Path):
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 1
    path.write_bytes(damaged)
    with Image.open(path) as image:
        assert image.size == (65, 48)
        with pytest.raises(OSError, match=r"photo\.sdc: damaged") as caught:
            np.asarray(image)  # NumPy swallows AttributeError
        assert not isinstance(caught.value, FileNotFoundError)
        with pytest.raises(OSError, match="damaged"):
            image.load()  # again
        with pytest.raises(OSError, match="damaged"):
            image.verify()


def test_any_cut_is_an_oserror(data: bytes):
    for length in range(4, len(data)):
        with pytest.raises(OSError, match="damaged"):
            image = opened(data[:length])
            image.verify()


def test_verify_passes_an_intact_file(path: Path):
    image = Image.open(path)
    image.verify()
    assert image.fp is None


def test_other_errors_of_decoding_become_oserror(data: bytes, monkeypatch: pytest.MonkeyPatch):
    for error in (AttributeError("a"), RuntimeError("r"), IndexError("i"), ValueError("v"), SyntaxError("s")):
        monkeypatch.setattr(sdcodec, "decode", lambda *a, error=error, **k: (_ for _ in ()).throw(error))
        with pytest.raises(OSError, match=type(error).__name__):
            opened(data).load()


def test_without_pytorch_load_says_how_to_install_it(data: bytes, monkeypatch: pytest.MonkeyPatch):
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'")

    monkeypatch.setattr(sdcodec, "decode", missing)
    with pytest.raises(OSError, match="pip install torch"):
        opened(data).load()


def test_load_truncated_images_fills_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    data = (GOLDEN / "two-blocks.sdc").read_bytes()
    whole = pixels(opened(data))
    cut = opened(data[:-60])
    with pytest.raises(OSError, match="cut short"):
        cut.load()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.warns(sdcodec.SdcodecWarning, match="recovered without"):
        cut.load()
    assert cut.size == (544, 96) and np.array_equal(pixels(cut)[:, :48], whole[:, :48])


def test_load_truncated_images_keeps_the_mode_without_transparency(transparent: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    image = opened(transparent[:-20])
    with pytest.warns(sdcodec.SdcodecWarning, match="alpha"):
        image.load()
    assert image.mode == "RGBA" and image.getextrema()[3] == (255, 255)


def test_bytes_behind_the_end_are_ignored_with_a_warning(data: bytes):
    image = opened(data + b"more")
    with pytest.warns(sdcodec.SdcodecWarning, match="4 bytes behind the end"):
        image.load()
    with pytest.warns(sdcodec.SdcodecWarning, match="4 bytes behind the end"):
        opened(data + b"more").verify()


def test_transparent_pictures_opened_by_path_are_right(transparent: bytes, tmp_path: Path):
    (tmp_path / "a.sdc").write_bytes(transparent)
    with Image.open(tmp_path / "a.sdc") as image:
        assert image.mode == "RGBA"
        assert np.array_equal(pixels(image), pixels(sdcodec.decode(transparent, device="cpu")))
        assert pixels(image)[0, :, 3].tolist() == [3 * x for x in range(65)]


def test_pickle_and_deepcopy_keep_the_pixels(path: Path):
    with Image.open(path) as image:
        for other in (pickle.loads(pickle.dumps(image)), copy.deepcopy(image), copy.copy(image), image.copy()):
            assert np.array_equal(pixels(other), pixels(image)) and other.tell() == 0
        restored = pickle.loads(pickle.dumps(image))
        assert restored.n_frames == 1 and restored.draft(None, (8, 8)) is None
        restored.verify()


def test_one_decode_for_several_threads(data: bytes, monkeypatch: pytest.MonkeyPatch):
    calls, image, start = counted(monkeypatch), opened(data), threading.Barrier(4)

    def load(_: int) -> bytes:
        start.wait()
        return image.tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(load, range(4)))) == 1
    assert len(calls) == 1


def test_nothing_is_decoded_twice(data: bytes, monkeypatch: pytest.MonkeyPatch):
    calls, image = counted(monkeypatch), opened(data)
    repr(image), image.getexif(), image.tell(), image._getexif()
    assert calls == []
    image.load(), image.load(), image.seek(0), image.getexif(), image.tobytes()
    assert len(calls) == 1
    with pytest.raises(EOFError):
        image.seek(1)
    assert image.n_frames == 1 and not image.is_animated


def test_an_interrupted_decode_leaves_the_image_loadable(data: bytes, monkeypatch: pytest.MonkeyPatch):
    image = opened(data)
    with monkeypatch.context() as patch:
        patch.setattr(sdcodec, "decode", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            image.load()
    assert np.array_equal(pixels(image), pixels(opened(data)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_decodes_after_its_parent(data: bytes):
    expected = opened(data).tobytes()
    torch.set_num_threads(2)
    try:
        torch.randn(300, 300) @ torch.randn(300, 300)  # starts the threads
        child = multiprocessing.get_context("fork").Process(target=_check_in_child, args=(data, expected))
        child.start()
        child.join(60)
        child.kill()
        assert child.exitcode == 0
    finally:
        torch.set_num_threads(1)


def _check_in_child(data: bytes, expected: bytes) -> None:
    found, wanted = (np.frombuffer(samples, "u1").astype(int) for samples in (opened(data).tobytes(), expected))
    os._exit(int(np.abs(found - wanted).max() > 1))  # the number of threads may move a grey level


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forkserver")
def test_workers_of_spawn_and_forkserver_open_files(path: Path, tmp_path: Path):
    (tmp_path / "dataset.py").write_text(
        "import sdcodec.pillow\nfrom PIL import Image\ndef size(path): return Image.open(path).size\n"
        "def corner(path): return Image.open(path).crop((0, 0, 2, 1)).size\n"
    )
    script = tmp_path / "main.py"
    script.write_text(
        "import multiprocessing, sys, dataset\n"
        "if __name__ == '__main__':\n"
        "    for method, work in (('spawn', dataset.corner), ('forkserver', dataset.size)):\n"
        "        with multiprocessing.get_context(method).Pool(1) as pool:\n"
        "            print(method, pool.apply(work, (sys.argv[1],)))\n"
    )
    result = subprocess.run(
        [sys.executable, str(script), str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert result.stdout.splitlines() == ["spawn (2, 1)", "forkserver (65, 48)"], result.stderr


def test_options_of_an_image_count_until_it_is_loaded(data: bytes):
    image = opened(data)
    image.decode_options["realism"] = 1  # which this model does not have
    with pytest.raises(OSError, match="no realism"):
        image.load()
    del image.decode_options["realism"]
    image.load()
    image.decode_options["realism"] = 1
    image.load()


def test_options_of_the_module_count_for_all(data: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sdcodec.pillow.decode_options, "model", "base")
    with pytest.raises(OSError, match="not with 'base'"):
        opened(data).load()


def test_both_directions_use_the_cpu_unless_asked(data: bytes, monkeypatch: pytest.MonkeyPatch):
    devices: list[str] = []

    def refuse(*_: object, device: str, **__: object) -> None:
        devices.append(device)
        raise sdcodec.OptionError("enough")

    monkeypatch.setattr(sdcodec, "decode", refuse)
    monkeypatch.setattr(sdcodec, "encode", refuse)
    for options in ({}, {"device": "cuda"}):
        image = opened(data)
        image.decode_options |= options
        with pytest.raises(OSError, match="enough"):
            image.load()
        with pytest.raises(ValueError, match="enough"):
            Image.new("RGB", (8, 8)).save(io.BytesIO(), "SDC", **options)
    assert devices == ["cpu", "cpu", "cuda", "cuda"]


def test_a_scale_is_chosen_by_draft_alone(data: bytes):
    image = opened(data)
    image.decode_options["scale"] = 0.5
    with pytest.raises(OSError, match="'scale'"):
        image.load()


def test_edits_of_info_survive_loading(data: bytes):
    container = Container.from_bytes(data)
    image = opened(Container(container.header, container.blocks, exif=TIFF, xmp=XMP).to_bytes())
    del image.info["exif"]
    image.info["xmp"] = b"<y/>"
    image.load()
    assert image.info == {"xmp": b"<y/>"}


def test_a_folder_data_set_finds_files_by_their_extension(path: Path):
    extensions = tuple(Image.registered_extensions())
    assert path.name.upper().lower().endswith(extensions)


@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_imageio_reads_it(path: Path, kind: str):
    iio = pytest.importorskip("imageio.v3")
    source = path if kind == "path" else path.read_bytes()
    assert np.array_equal(iio.imread(source), pixels(opened(path.read_bytes())))
    assert iio.improps(source).shape == (48, 65, 3)
    assert iio.imread(source, index=None).shape[-3:] == (48, 65, 3)
    written = iio.imwrite("<bytes>", photograph(8, 8), extension=".sdc", plugin="pillow", model="random", effort=0)
    assert written == sdcodec.encode(photograph(8, 8), model="random", effort=0, device="cpu")


def test_the_incremental_parser_knows_the_size_from_the_first_piece(data: bytes):
    parser = ImageFile.Parser()
    parser.feed(data[:10])
    assert parser.image is None
    parser.feed(data[10:100])
    assert parser.image is not None and parser.image.size == (65, 48)
    for start in range(100, len(data), 1024):
        parser.feed(data[start : start + 1024])
    assert np.array_equal(pixels(parser.close()), pixels(opened(data)))


def test_a_newer_version_is_named(data: bytes):
    with pytest.raises(OSError, match=r"format version 3.*newer sdcodec"):
        opened(MAGIC + b"\x30" + data[5:])


def test_a_missing_model_is_named_by_load_only(data: bytes):
    image = opened(with_header())
    assert image.size == (8, 8)
    with pytest.raises(OSError, match="model that is not installed"):
        image.load()


def test_a_huge_header_is_a_decompression_bomb():
    data = with_header(width=60000, height=60000)
    with pytest.raises(Image.DecompressionBombError):
        opened(data)


def test_pillows_limit_of_pixels_decides(data: bytes, monkeypatch: pytest.MonkeyPatch):
    image = opened(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 65 * 48 // 2 - 1)
    with pytest.raises(OSError, match="exceed the limit"):
        image.load()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    image.load()


def test_a_thumbnail_is_decoded_once_at_a_reduced_size(data: bytes, monkeypatch: pytest.MonkeyPatch):
    calls, image, plain = counted(monkeypatch), opened(data), opened(data).copy()
    del calls[:]
    image.thumbnail((8, 8))
    plain.thumbnail((8, 8))
    assert image.size == plain.size == (8, 6) and len(calls) == 1
    assert np.abs(pixels(image).astype(int) - pixels(plain)).mean() < 6


def test_a_draft_is_the_smallest_size_that_is_large_enough(data: bytes):
    for size, divisor in {(8, 6): 8, (9, 6): 8, (10, 6): 4, (9, 7): 4, (17, 12): 4, (18, 12): 2, (33, 24): 2}.items():
        image = opened(data)
        assert image.draft(None, size) == ("RGB", (0, 0, 65 / divisor, 48 / divisor))
        assert image.size == (-(-65 // divisor), 48 // divisor)
        expected = sdcodec.decode(data, device="cpu", scale=1 / divisor)
        assert np.array_equal(pixels(image), pixels(expected)) and image.size == expected.size


@pytest.mark.parametrize(("width", "height"), [(1, 40), (40, 1), (9, 7)])
def test_thin_pictures_keep_a_pixel(width: int, height: int):
    data = sdcodec.encode(photograph(height, width), model="random", effort=0)
    image = opened(data)
    image.draft(None, (1, 1))
    assert image.size == (-(-width // 8), -(-height // 8)) == opened(data).convert("RGB").reduce(8).size
    image.load()


def test_drafts_without_effect_return_none(data: bytes, monkeypatch: pytest.MonkeyPatch):
    calls, image = counted(monkeypatch), opened(data)
    assert image.draft(None, (34, 24)) is image.draft("L", (8, 8)) is image.draft(None, None) is None
    assert image.draft("RGB", (10, 6)) is not None and image.draft(None, (8, 6)) is None
    assert image.size == (17, 12)
    image.load()
    assert image.draft(None, (1, 1)) is None and image.size == (17, 12)
    larger = opened(data)
    larger.thumbnail((100, 100))
    assert len(calls) == 1 and larger.size == (65, 48)


def test_resize_uses_no_preview(data: bytes):
    whole = opened(data).copy()
    assert np.array_equal(pixels(opened(data).resize((8, 6))), pixels(whole.resize((8, 6))))
    image, expected = opened(data), whole.copy()
    image.thumbnail((8, 8), reducing_gap=None)
    expected.thumbnail((8, 8), reducing_gap=None)
    assert np.array_equal(pixels(image), pixels(expected))


@pytest.mark.parametrize("exif", [b"", b"nonsense", b"II*\0\xff\xff\xff\xff"])
def test_broken_exif_breaks_getexif_alone(exif: bytes, data: bytes):
    container = Container.from_bytes(data)
    image = opened(Container(container.header, container.blocks, exif=exif).to_bytes())
    with contextlib.suppress(SyntaxError, KeyError, ValueError):
        image.getexif()
    image.load()


def test_exif_and_xmp_are_in_info(data: bytes):
    container = Container.from_bytes(data)
    image = opened(Container(container.header, container.blocks, exif=TIFF, xmp=XMP).to_bytes())
    assert image.getexif()[271] == "Maker" and image._getexif() == {271: "Maker"}
    assert image.info["xmp"] == XMP
    assert not {"xmp", "exif", "icc_profile"} & set(opened(data).info)
    assert ImageOps.exif_transpose(image).size == image.size


def test_other_files_are_not_accepted():
    accept = sdcodec.pillow._accept
    assert accept(MAGIC + bytes(12)) and not any(map(accept, (b"", MAGIC[:3], b"\x89PNG\r\n\x1a\n", b"xSDC")))


def test_registration_is_idempotent():
    def registered() -> tuple[object, ...]:
        tables = Image.OPEN, Image.SAVE, Image.SAVE_ALL, Image.EXTENSION, Image.MIME
        return Image.ID.copy(), *(table.copy() for table in tables)

    before = registered()
    sdcodec.register_pillow()
    sdcodec.register_pillow()
    assert registered() == before and Image.ID.count("SDC") == 1


def test_content_decides_not_the_name(data: bytes, tmp_path: Path):
    for name in ("PHOTO.SDC", "photo.png"):
        (tmp_path / name).write_bytes(data)
        for source in (tmp_path / name, str(tmp_path / name), os.fsencode(tmp_path / name)):
            with Image.open(source, formats=["SDC"]) as image:
                assert image.format == "SDC" and image.size == (65, 48)
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(data), formats=["PNG"])


def test_encode_still_refuses_an_sdc_file(path: Path):
    with pytest.raises(sdcodec.ImageError, match=r"an \.sdc file already"):
        sdcodec.encode(path)


def test_the_callers_modes_of_pytorch_do_not_matter(data: bytes):
    expected = pixels(opened(data))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(pixels(opened(data)), expected)
