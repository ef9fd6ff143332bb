"""Tests of the command: options, outputs, exit statuses, one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sdcodec_cli.main import cli


def invoke(*arguments: str, status: int = 0) -> str:
    """Run the command in this process; return its output."""
    from sdcodec.errors import OptionError, SdcodecError

    result = CliRunner().invoke(cli, list(arguments))
    if isinstance(result.exception, SdcodecError):  # main() prints the message and exits with this status
        assert status == (2 if isinstance(result.exception, OptionError) else 1)
        return str(result.exception)
    assert result.exit_code == status, result.output
    return result.output


def test_encoding_and_decoding_a_file(folder):
    output = invoke("encode", "a.png", "-o", "a.sdc", "--model", "random", "-v")
    assert "bytes" in output and "bpp" in output and "PSNR" in output
    invoke("decode", "a.sdc", "-o", "back.png")
    assert Image.open("back.png").size == (64, 48)


def test_standard_streams_and_decode_imports_nothing_slow(folder):
    image = (folder / "a.png").read_bytes()
    command = [sys.executable, "-m", "sdcodec_cli", "encode", "-", "-o", "-", "--model", "random"]
    file = subprocess.run(command, input=image, capture_output=True, check=True).stdout
    assert file[:4] == b"\x89SDC"
    code = (
        "import sys; from sdcodec_cli.main import main\n"
        "try: main(['decode', '-', '-o', '-'])\n"
        "except SystemExit as e: assert not e.code\n"
        "slow = {'diffusers', 'scipy', 'skimage', 'transformers', 'lpips'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    back = subprocess.run([sys.executable, "-c", code], input=file, capture_output=True, check=True).stdout
    assert back[:4] == b"\x89PNG"


def test_one_bad_file_does_not_stop_the_others(folder, run):
    _, errors = run("encode", "a.png", "bad.png", "c.png", "-o", "out/", "--model", "random", status=1)
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["a.sdc", "c.sdc"]
    assert "bad.png" in errors and "1 of 3" in errors


def test_colliding_outputs_are_refused_before_anything_is_written(folder):
    Image.open("a.png").save("a.webp")
    invoke("encode", "b.png", "a.png", "a.webp", "-o", "out/", "--model", "random", status=2)
    assert not list((folder / "out").iterdir())


def test_existing_outputs(folder):
    invoke("encode", "a.png", "-o", "a.sdc", "--model", "random")
    first = (folder / "a.sdc").read_bytes()
    assert "--force" in invoke("encode", "a.png", "-o", "a.sdc", "--model", "random", "-q", "90", status=1)
    assert "skipped" in invoke("encode", "a.png", "-o", "a.sdc", "--model", "random", "-q", "90", "--skip-existing")
    assert (folder / "a.sdc").read_bytes() == first
    invoke("encode", "a.png", "-o", "a.sdc", "--model", "random", "-q", "90", "--force")
    assert (folder / "a.sdc").read_bytes() != first


def test_budgets(folder):
    invoke("encode", "a.png", "-o", "q.sdc", "--model", "random", "-q", "50")
    size = (folder / "q.sdc").stat().st_size
    invoke("encode", "a.png", "-o", "b.sdc", "--model", "random", "--bytes", str(size))
    assert (folder / "b.sdc").stat().st_size <= size
    assert "too few" in invoke("encode", "a.png", "-o", "c.sdc", "--model", "random", "--bytes", "5", status=1)
    assert not (folder / "c.sdc").exists()


def test_effort(folder):
    for effort in "034":
        invoke("encode", "a.png", "-o", f"{effort}.sdc", "--model", "random", "--effort", effort)
        invoke("decode", f"{effort}.sdc", "-o", f"{effort}.png")
    assert (folder / "3.sdc").stat().st_size < (folder / "0.sdc").stat().st_size


def test_palette_mode(folder):
    invoke("encode", "a.png", "-o", "p.sdc", "--model", "random", "--mode", "palette")
    assert "palette (P)" in invoke("info", "p.sdc", "--symbols")
    size = (folder / "p.sdc").stat().st_size
    invoke("encode", "a.png", "-o", "less.sdc", "--model", "random", "--mode", "palette", "--bytes", str(size // 2))
    assert (folder / "less.sdc").stat().st_size <= size // 2
    invoke("decode", "p.sdc", "-o", "p.png")
    assert Image.open("p.png").size == (64, 48)


@pytest.mark.parametrize(
    "arguments",
    [
        ("-q", "50", "--bytes", "100"),
        ("-q", "101"),
        ("--bytes", "0"),
        ("--bpp", "nan"),
        ("--effort", "10"),
        ("--mode", "pixels"),
        ("--mode", "palette", "-q", "50"),
        ("--mode", "palette", "--effort", "4"),
        ("--metadata", "everything"),
        ("--force", "--skip-existing"),
        ("-v", "--quiet"),
    ],
)
def test_wrong_use_is_status_2(folder, arguments):
    invoke("encode", "a.png", "-o", "x.sdc", *arguments, status=2)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("encode", "bad.png", "-o", "x.sdc", "--model", "random"), "bad.png"),
        (("encode", "missing.png", "-o", "x.sdc", "--model", "random"), "missing.png"),
        (("encode", "a.png", "-o", "nowhere/x.sdc", "--model", "random"), "nowhere"),
        (("encode", "a.png", "-o", "x.sdc", "--model", "nonesuch"), "nonesuch"),
        (("encode", "a.png", "-o", "x.sdc", "--model", "random", "--max-pixels", "100"), "a.png"),
        (("decode", "a.png", "-o", "x.png"), "a.png: not an .sdc file"),
    ],
)
def test_bad_input_is_one_line_and_status_1(folder, run, arguments, complaint):
    _, errors = run(*arguments, status=1)
    assert complaint in errors and errors.count("\n") == 1
    assert not (folder / "x.sdc").exists() and not (folder / "x.png").exists()


def test_damaged_files_are_named(folder):
    invoke("encode", "a.png", "-o", "a.sdc", "--model", "random")
    data = (folder / "a.sdc").read_bytes()
    (folder / "short.sdc").write_bytes(data[:-5])
    (folder / "long.sdc").write_bytes(data + b"x")
    (folder / "future.sdc").write_bytes(data[:4] + b"\x30" + data[5:])
    output = invoke("decode", "long.sdc", "-o", "long.png")
    assert "sdcodec: long.sdc: warning: 1 bytes behind the end" in output
    for name, complaint in (("short", "cut short"), ("future", "version 3")):
        output = invoke("decode", f"{name}.sdc", "-o", "x.png", status=1)
        assert complaint in output and f"{name}.sdc" in output


def test_info(folder):
    invoke("encode", "a.png", "-o", "a.sdc", "--model", "random")
    values = json.loads(invoke("info", "a.sdc", "--json", "--symbols"))
    assert values["model"] == "random" and (values["width"], values["height"]) == (64, 48)
    assert values["bytes"] == (folder / "a.sdc").stat().st_size
    assert [chunk["tag"] for chunk in values["chunks"]] == ["L"] and len(values["symbols_sha256"]) == 64
    assert "64 x 48" in invoke("info", "a.sdc")


def test_info_states_the_complexity_of_the_model(folder):
    invoke("encode", "a.png", "-o", "a.sdc", "--model", "random")
    counts = json.loads(invoke("info", "a.sdc", "--json"))["kmac_per_pixel"]
    assert list(counts) == ["encoder", "decoder", "prior"] and all(count > 0 for count in counts.values())
    assert f"kMAC per pixel: encoder {counts['encoder']:g}, decoder" in invoke("info", "a.sdc")


def test_info_works_without_the_model(folder, monkeypatch):
    invoke("encode", "a.png", "-o", "a.sdc", "--model", "random")
    monkeypatch.setenv("SDCODEC_HOME", str(folder / "out"))
    assert "not installed" in invoke("info", "a.sdc")
    assert "not installed" in invoke("decode", "a.sdc", "-o", "x.png", status=1)


def test_help_and_info_do_not_import_pytorch(folder):
    invoke("encode", "a.png", "-o", "a.sdc", "--model", "random")
    code = (
        "import sys; from sdcodec_cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    for arguments in (["--help"], ["info", "a.sdc"]):
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


@pytest.mark.parametrize("extension", ["png", "webp", "tiff", "bmp"])
def test_lossless_formats_hold_the_same_pixels(folder, extension):
    invoke("encode", "a.png", "-o", "a.sdc", "--model", "random")
    invoke("decode", "a.sdc", "-o", "x.png")
    invoke("decode", "a.sdc", "-o", "out/", "--format", extension)
    assert np.array_equal(np.asarray(Image.open("x.png")), np.asarray(Image.open(f"out/a.{extension}").convert("RGB")))


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield every command of the program, as words."""
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("command", [*commands()], ids=" ".join)
def test_help_fits_80_columns(command):
    text = invoke(*command, "--help")
    assert max(map(len, text.splitlines())) <= 80
    if command == ("encode",):
        assert "default: 50" in text


def test_training_from_the_command(folder):
    recipe = str(config(folder, "nothing"))
    assert "no such folder" in invoke("train", recipe, "--steps", "1", status=1)
    assert "either --minutes or --steps" in invoke("train", recipe, status=1)
    assert "exclude each other" in invoke("train", recipe, "--steps", "1", "--minutes", "2", status=2)
    invoke("train", recipe, "--set", "steps", status=2)


def config(folder, data):
    path = folder / "recipe.toml"
    path.write_text(f'data = ["{data}"]\noutput = "run"\n')
    return path


def test_eval_writes_its_tables_and_shows_the_means(folder):
    output = invoke(
        *("eval", "a.png", "b.png", "--out", "results", "--codecs", "sdcodec,jpeg", "--model", "random"),
        *("--bytes", "2500", "--metrics", "psnr", "--downscale", "2", "--codec", "444=jpeg,subsampling=4:4:4"),
    )
    results = json.loads((folder / "results" / "results.json").read_text())
    assert [codec["label"] for codec in results["codecs"]] == ["sdcodec", "jpeg", "444", "jpeg-down2", "444-down2"]
    assert results["codecs"][0]["settings"]["model"] == "random"
    assert "BD-rate against jpeg" in output and "2/2" in output
    assert invoke("eval", "a.png", "--out", "results", status=1).startswith("results: has results already")


def test_eval_reports_broken_pictures_and_fails_at_the_end(folder, run):
    output, errors = run(
        *("eval", "a.png", "bad.png", "--out", "results", "--codecs", "jpeg", "--bytes", "2500", "--metrics", "psnr"),
        status=1,
    )
    assert "jpeg" in output and "sdcodec: bad.png: not an image" in errors
    assert "1 of 2 rows have errors" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bytes", "100", "--quality", "5"), "--bytes and --quality exclude each other"),
        (("--bytes", "many"), "not whole numbers separated by commas"),
        (("--codecs", "jpg"), "unknown codec 'jpg'"),
        (("--metrics", "vmaf"), "unknown metric vmaf"),
        (("--anchor", "webp", "--codecs", "jpeg"), "the anchor 'webp' is not among the codecs"),
        (("--codecs", "jpeg", "--quality", "101"), "jpeg has no quality 101"),
    ],
)
def test_eval_refuses_contradictory_or_unknown_options(folder, arguments, message):
    assert message in invoke("eval", "a.png", "--out", "results", *arguments, status=2)
    assert not (folder / "results").exists()


def test_compare_shows_every_codec_at_equal_bytes(folder):
    output = invoke("compare", "a.png", "--bytes", "3500", "-o", "sheet.png", "--codecs", "jpeg,webp", "--columns", "3")
    assert "jpeg" in output and "webp" in output
    assert Image.open("sheet.png").width > 3 * 64
    assert "exists already" in invoke("compare", "a.png", "-o", "sheet.png", status=1)


def test_compare_labels_unreachable_sizes(folder):
    output = invoke("compare", "a.png", "--bytes", "300", "-o", "sheet.png", "--codecs", "jpeg")
    assert "cannot reach this size" in output
    assert "bad.png: not an image" in invoke("compare", "bad.png", "-o", "other.png", "--codecs", "jpeg", status=1)


def test_the_limits_of_pixels_are_those_of_the_library():
    from sdcodec import loaded, pixels
    from sdcodec_cli import conversion

    assert conversion.DEFAULT_MAX_PIXELS == pixels.DEFAULT_MAX_PIXELS
    assert conversion.DECODED_MAX_PIXELS == loaded.DECODED_MAX_PIXELS
