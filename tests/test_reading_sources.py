"""Arrays, tensors and JPEG XL as input: read correctly, or refused with a remedy."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import sdcodec
from sdcodec.errors import ImageError, ImageTypeError, SdcodecWarning
from sdcodec.pixels import read_picture

RAMP = np.linspace(0, 65535, 24 * 16).astype(np.uint16).reshape(16, 24)


@pytest.mark.parametrize("count", [None, 1, 3, 4])
def test_sixteen_bit_array(count: int | None) -> None:
    array = RAMP if count is None else np.repeat(RAMP[:, :, None], count, axis=2)
    picture = read_picture(array)
    expected = np.rint(RAMP / 257).astype(np.uint8)
    assert np.array_equal(picture.rgb, np.repeat(expected[:, :, None], 3, axis=2))
    assert (picture.alpha is None) == (count != 4)
    if picture.alpha is not None:
        assert np.array_equal(picture.alpha, expected)


def test_sixteen_bit_array_in_the_other_byte_order() -> None:
    assert np.array_equal(read_picture(RAMP.astype(">u2")).rgb, read_picture(RAMP).rgb)


def test_sixteen_bit_array_with_small_values() -> None:
    with pytest.warns(SdcodecWarning, match="do not exceed 255 of 65535"):
        read_picture(np.full((4, 4, 3), 255, np.uint16))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_array_is_refused_with_a_recipe_that_works(dtype: type) -> None:
    array = np.linspace(0, 1, 48).reshape(4, 4, 3).astype(dtype)
    with pytest.raises(TypeError, match=r"\(array \* 255\)\.round\(\)"):
        read_picture(array)
    read_picture((array * 255).round().clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int32, np.uint32, np.int64, np.complex64])
def test_other_arrays_are_refused(dtype: type) -> None:
    with pytest.raises(ImageTypeError, match="give uint8"):
        read_picture(np.zeros((4, 4, 3), dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_tensor_is_refused_with_a_recipe_that_works(dtype: torch.dtype) -> None:
    tensor = torch.ones(3, 4, 5).to(dtype)
    with pytest.raises(TypeError, match=r"permute\(1, 2, 0\)"):
        read_picture(tensor)  # type: ignore[arg-type]
    array = tensor.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    assert read_picture(array).rgb.shape == (4, 5, 3)


def test_the_error_is_public() -> None:
    assert issubclass(sdcodec.ImageTypeError, (ImageError, TypeError))


class TestJpegXl:
    @pytest.fixture
    def data(self) -> bytes:
        pytest.importorskip("pillow_jxl")
        buffer = io.BytesIO()
        Image.fromarray(np.dstack([RAMP >> 8] * 3).astype(np.uint8)).save(buffer, "JXL", lossless=True)
        return buffer.getvalue()

    def test_is_read(self, data: bytes) -> None:
        assert np.array_equal(read_picture(data).rgb[:, :, 0], RAMP >> 8)

    def test_cut_file_is_refused(self, data: bytes) -> None:
        with pytest.raises(ImageError):
            read_picture(data[: len(data) // 2])


def in_another_process(code: str, data: bytes) -> bytes:
    """Run code in a process that has not imported the plug-in; return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_jpeg_xl_is_read_without_an_earlier_import() -> None:
    pytest.importorskip("pillow_jxl")
    code = (
        "import sys\n"
        "from sdcodec.pixels import read_picture\n"
        "assert 'pillow_jxl' not in sys.modules\n"
        "print(read_picture(sys.stdin.buffer.read()).rgb.shape)\n"
    )
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, "JXL")
    assert in_another_process(code, buffer.getvalue()) == b"(10, 20, 3)"


@pytest.mark.parametrize("head", [b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"])
def test_jpeg_xl_without_the_plugin_gives_a_hint(head: bytes) -> None:
    code = (
        "import sys\n"
        "sys.modules['pillow_jxl'] = None\n"
        "from sdcodec.pixels import read_picture\n"
        "try:\n    read_picture(sys.stdin.buffer.read())\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    printed = in_another_process(code, head + bytes(100))
    assert printed.startswith(b"ImageError") and b"pip install pillow-jxl-plugin" in printed
