"""Choices of a file's reader: realism and reduced size."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

import sdcodec
from conftest import photograph
from sdcodec import Codec, OptionError, windowed
from sdcodec.autoencoders.protocol import RealismAutoencoder
from sdcodec_cli.codec_choice import CodecChoice
from sdcodec_cli.main import cli, main
from sdcodec_eval.codecs.registry import CodecSpec, build, parse
from sdcodec_eval.comparison import compare

PICTURE = photograph(70, 90)


def pixels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image).astype(int)


def transparent() -> NDArray[np.uint8]:
    """RGBA `[70, 90, 4]`, its left part transparent."""
    alpha = np.full((70, 90, 1), 255, np.uint8)
    alpha[:, :30] = 0
    alpha[:, 30:45] = 100
    return np.concatenate([PICTURE, alpha], 2)


@pytest.fixture(scope="module")
def vivid(vivid_bundle: Path) -> Codec:
    return Codec(vivid_bundle, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def plain(random_bundle: Path) -> Codec:
    return Codec(random_bundle, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def data(vivid: Codec) -> bytes:
    return vivid.encode(PICTURE, quality=60).data


# Realism


def test_one_file_decodes_at_every_realism(vivid: Codec, plain: Codec, data: bytes) -> None:
    assert plain.encode(PICTURE, quality=60).data == data  # the decoder does not decide the file
    shown = [pixels(vivid.decode(data, realism=beta)) for beta in (0, 0.5, 1.0)]
    assert np.array_equal(pixels(vivid.decode(data)), shown[1])  # the default of this bundle
    assert vivid.default_realism == 0.5 and plain.default_realism is None
    assert all((one != other).any() for one, other in ((shown[0], shown[1]), (shown[1], shown[2])))


def test_batches_decode_at_the_same_realism(vivid: Codec, data: bytes) -> None:
    palette = vivid.encode(PICTURE, mode="palette").data
    images = vivid.decode_batch([data, palette, data], realism=1, scale=0.5)
    for image, file in zip(images, (data, palette, data), strict=True):
        assert np.abs(pixels(image) - pixels(vivid.decode(file, realism=1, scale=0.5))).max() <= 1


def test_round_trip_has_a_realism(vivid: Codec) -> None:
    default, faithful = vivid.round_trip(PICTURE), vivid.round_trip(PICTURE, realism=0)
    assert (pixels(default) != pixels(faithful)).any()
    assert np.array_equal(pixels(default), pixels(vivid.round_trip(PICTURE, realism=0.5)))


def test_windows_of_a_large_image_have_the_same_realism(vivid: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    large = vivid.encode(photograph(200, 260), quality=60).data
    whole = [vivid.decode(large, realism=1, scale=scale) for scale in (1, 0.25, 0.125)]
    monkeypatch.setattr(windowed, "WINDOW_PIXELS", 64)
    parts = [vivid.decode(large, realism=1, scale=scale) for scale in (1, 0.25, 0.125)]
    for one, other in zip(whole, parts, strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 1


def test_model_without_realism_refuses_one(plain: Codec, data: bytes) -> None:
    for call in (
        lambda: plain.decode(data, realism=0.5),
        lambda: plain.decode_batch([data], realism=0),
        lambda: plain.round_trip(PICTURE, realism=1),
    ):
        with pytest.raises(OptionError, match=r"no realism to choose; leave --realism \(realism\) out"):
            call()


@pytest.mark.parametrize("realism", [-0.1, 1.01, float("nan"), "1", [1]])
def test_realism_outside_its_range_is_refused(vivid: Codec, data: bytes, realism: Any) -> None:
    with pytest.raises(OptionError, match=r"realism .* is (outside 0\.\.1|not a number; give 0 to 1)"):
        vivid.decode(data, realism=realism)


def test_pickled_codec_keeps_the_default(vivid: Codec, data: bytes) -> None:
    again = pickle.loads(pickle.dumps(vivid))
    assert again.default_realism == 0.5
    assert np.array_equal(pixels(again.decode(data)), pixels(vivid.decode(data)))


def test_refinement_sees_the_default(vivid: Codec) -> None:
    """Latents are refined for the decoder that most readers will see."""
    autoencoder = vivid._model.autoencoder
    assert isinstance(autoencoder, RealismAutoencoder)
    other = Codec(vivid._bundle.folder, device="cpu", precision="float32")
    other._model = replace(vivid._model, autoencoder=autoencoder.with_realism(1))
    one, two, again = (codec.encode(PICTURE, quality=60, effort=4).data for codec in (vivid, other, vivid))
    assert one == again and one != two


# Reduced size


@pytest.mark.parametrize("scale", [0.5, 0.25, Fraction(1, 8)])
@pytest.mark.parametrize("rgba", [False, True])
def test_reduced_images_are_means_of_squares(plain: Codec, scale: float | Fraction, rgba: bool) -> None:
    source = transparent() if rgba else PICTURE
    file = plain.encode(source, quality=60).data
    divisor = round(1 / scale)
    reduced, whole = plain.decode(file, scale=scale), plain.decode(file)
    assert reduced.mode == ("RGBA" if rgba else "RGB") and reduced.size == (-(-90 // divisor), -(-70 // divisor))
    rows, columns = 70 // divisor, 90 // divisor
    squares = pixels(whole)[: rows * divisor, : columns * divisor]
    means = squares.reshape(rows, divisor, columns, divisor, -1).mean((1, 3))
    assert np.abs(pixels(reduced)[:rows, :columns] - means).max() <= 0.6
    assert (pixels(reduced)[-1] == pixels(reduced)[rows:].min(0)).all() if 70 % divisor else True


@pytest.mark.parametrize("scale", [0.25, 0.125])
def test_heads_make_reduced_images_without_the_whole(
    vivid: Codec, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    file = vivid.encode(transparent(), quality=60).data
    alpha = np.asarray(vivid.decode(file).getchannel("A").reduce(round(1 / scale)))

    def refused(*arguments: Any) -> None:
        raise AssertionError("the whole image was decoded")

    monkeypatch.setattr(type(vivid._model.autoencoder), "decode_with_gradient", refused)
    image = vivid.decode(file, scale=scale)
    assert image.size == (-(-90 * scale // 1), -(-70 * scale // 1))
    assert np.array_equal(np.asarray(image.getchannel("A")), alpha)
    assert np.array_equal(pixels(image), pixels(vivid.decode(file, scale=scale, realism=1)))
    with pytest.raises(AssertionError, match="the whole"):
        vivid.decode(file, scale=0.5)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 3)])
def test_smallest_images_have_a_pixel_at_each_scale(vivid: Codec, plain: Codec, size: tuple[int, int]) -> None:
    for codec in (vivid, plain):
        file = codec.encode(photograph(*size), quality=60).data
        for divisor in (1, 2, 4, 8):
            assert codec.decode(file, scale=Fraction(1, divisor)).size == (
                -(-size[1] // divisor),
                -(-size[0] // divisor),
            )


def test_reduced_images_keep_metadata(plain: Codec) -> None:
    image = Image.fromarray(PICTURE)
    exif = image.getexif()
    exif[0x010F] = "maker"
    image.info["exif"] = exif.tobytes()
    file = plain.encode(image, metadata=frozenset({"exif"})).data
    assert plain.decode(file, scale=0.125).getexif()[0x010F] == "maker"


@pytest.mark.parametrize("scale", [0, 2, 0.3, "1/2", [0.5], None, float("nan")])
def test_other_scales_are_refused(plain: Codec, data: bytes, scale: Any) -> None:
    with pytest.raises(OptionError, match=r"is none of 1, 1/2, 1/4 and 1/8; give 0\.5, 0\.25 or 0\.125"):
        plain.decode(data, scale=scale)


# Library function, command, evaluation


def test_decode_function_passes_both_on(vivid: Codec, data: bytes) -> None:
    options: dict[str, Any] = {"realism": 1, "scale": 0.25}
    found = sdcodec.decode(data, model=vivid._bundle.folder, device="cpu", precision="float32", **options)
    assert np.array_equal(pixels(found), pixels(vivid.decode(data, **options)))


def invoke(*arguments: object, status: int = 0) -> str:
    """Run the command in this process; return its output."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.output


def test_command_decodes_at_a_realism_and_size(vivid: Codec, data: bytes, tmp_path: Path) -> None:
    file, model = tmp_path / "a.sdc", vivid._bundle.folder
    file.write_bytes(data)
    common = ("--model", model, "--device", "cpu", "--precision", "float32")
    invoke("decode", file, "-o", tmp_path / "a.png", "--realism", "1", "--scale", "1/4", *common)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(pixels(image), pixels(vivid.decode(data, realism=1, scale=0.25)))
    for option in (("--realism", "2"), ("--scale", "1/3")):
        assert "Invalid value" in invoke("decode", file, "-o", tmp_path / "b.png", *option, *common, status=2)


def test_command_refuses_realism_in_one_line(
    plain: Codec, data: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, target = tmp_path / "a.sdc", tmp_path / "a.png"
    file.write_bytes(data)
    with pytest.raises(SystemExit) as ended:
        main(["decode", str(file), "-o", str(target), "--realism", "0.5", "--model", str(plain._bundle.folder)])
    printed = capfd.readouterr().err
    assert ended.value.code == 2 and not target.exists()
    assert "leave --realism (realism) out" in printed and len(printed.splitlines()) == 1


def test_info_and_show_state_the_default(
    vivid: Codec, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDCODEC_HOME", str(vivid._bundle.folder.parent))
    file = tmp_path / "a.sdc"
    file.write_bytes(data)
    shown = invoke("models", "show", "vivid")
    assert "realism      0.5 by default" in shown and "--scale 1/4 and 1/8" in shown
    assert json.loads(invoke("models", "show", "vivid", "--json"))["realism"] == 0.5
    assert json.loads(invoke("info", file, "--json"))["realism"] == 0.5
    assert "realism 0.5 by default" in invoke("info", file)


def test_show_says_nothing_of_realism_that_a_model_lacks(random_bundle: Path) -> None:
    shown = invoke("models", "show", f"{random_bundle}/")
    assert "realism" not in shown and "--scale" not in shown


def test_evaluated_codec_takes_a_realism(vivid_bundle: Path, random_bundle: Path) -> None:
    common = {"device": "cpu", "precision": "float32"}
    own = {beta: build(parse(f"a=sdcodec,model={vivid_bundle},realism={beta},device=cpu")) for beta in (0, 1)}
    default = build(CodecSpec("b", "sdcodec", {"model": str(vivid_bundle), **common}))
    assert default.settings["realism"] == 0.5 and own[1].settings["realism"] == 1
    file = default.encode(PICTURE, 60)
    assert (own[0].decode(file) != own[1].decode(file)).any()
    assert (own[0].round_trip(PICTURE) != own[1].round_trip(PICTURE)).any()  # type: ignore[attr-defined]
    assert "realism" not in build(CodecSpec("c", "sdcodec", {"model": str(random_bundle)})).settings
    with pytest.raises(OptionError, match="no realism to choose"):
        build(parse(f"a=sdcodec,model={random_bundle},realism=1"))
    with pytest.raises(OptionError, match="no option scale"):
        build(parse("a=sdcodec,scale=0.5"))


def test_comparison_shows_realism_0_beside_the_default(vivid_bundle: Path, random_bundle: Path, tmp_path: Path) -> None:
    def labels(model: Path, *added: str) -> list[str]:
        choice = CodecChoice(("sdcodec", "jpeg"), added, (), str(model), "cpu", "float32", None)
        return [spec.label for spec in choice.specs()]

    assert labels(vivid_bundle) == ["sdcodec", "sdcodec-realism0", "jpeg"]
    assert labels(random_bundle) == ["sdcodec", "jpeg"]
    assert labels(vivid_bundle, f"sdcodec=sdcodec,model={vivid_bundle},realism=1") == ["sdcodec", "jpeg"]
    Image.fromarray(photograph(96, 96)).save(tmp_path / "a.png")
    choice = CodecChoice(("sdcodec",), (), (), str(vivid_bundle), "cpu", "float32", None)
    comparison = compare(tmp_path / "a.png", 4000, choice.specs())
    default, faithful = comparison.results
    assert len({len(line) for line in comparison.table().splitlines()}) == 1  # the longer label keeps its columns
    assert default.data == faithful.data and default.pixels is not None and faithful.pixels is not None
    assert (default.pixels != faithful.pixels).any()
