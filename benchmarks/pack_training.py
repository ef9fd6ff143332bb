"""Pack a training run for a GPU machine without internet, in parts of 60 MB.

    python benchmarks/pack_training.py RECIPE --data FOLDER --vgg FILE --out parts/ [--minutes 20] [--python 3.12]

The parts hold the package with the model `base`, VGG-16's weights in float16, wheels of what the package needs beside
PyTorch, NumPy, Pillow and safetensors, and the photographs. The script prints the commands to run on the GPU machine,
and the command that makes a model of the files that come back.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from safetensors.torch import save_file

import sdcodec
import sdcodec_cli
from sdcodec.perceptual.vgg import POSITIONS, read_vgg16
from sdcodec.training.data import find_images

LARGEST_PART = 60_000_000  # bytes
TAR_BLOCK = 512  # of a header; contents are padded to it
TAR_END = 10_240
WHEELS = ("click", "constriction", "platformdirs")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")

File = tuple[str, Path]  # name in the archive, and path


def main(arguments: list[str] | None = None) -> None:
    """Write the parts and print the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--vgg", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--python", default="3.12", help="version of Python on the GPU machine")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if any(options.out.glob("part-*.tar")):
        sys.exit(f"{options.out}: holds parts already; delete them, or give another folder")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        download_wheels(work, options.python)
        files = [*package_files(), ("recipe.toml", options.recipe), *wheel_files(work)]
        files.append(("vgg16.safetensors", half_vgg(options.vgg, work / "vgg16.safetensors")))
        files += photograph_files(options.data)
        parts = write_parts(files, options.out)
    print(commands(parts, options))


def package_files() -> list[File]:
    """Return the package and its command, with no model but `base`."""
    found: list[File] = []
    for package in (sdcodec, sdcodec_cli):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root)
            of_other_model = name.parts[0] == "bundles" and len(name.parts) > 2 and name.parts[1] != "base"
            if path.is_file() and "__pycache__" not in name.parts and not of_other_model:
                found.append((f"{root.name}/{name.as_posix()}", path))
    return found


def download_wheels(folder: Path, python: str) -> None:
    """Download wheels for the GPU machine with pip."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    command += ["--python-version", python, "--implementation", "cp"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    subprocess.run([*command, *WHEELS], check=True)


def wheel_files(folder: Path) -> list[File]:
    """Return the wheels in a folder."""
    return [(f"wheels/{path.name}", path) for path in sorted(folder.glob("*.whl"))]


def half_vgg(source: Path, target: Path) -> Path:
    """Write VGG-16's convolutions in float16, 29 MB, with the names of torchvision."""
    tensors = read_vgg16(source)
    halves = {
        f"features.{theirs}.{part}": tensors[f"features.{own}.{part}"].half()
        for own, theirs in enumerate(POSITIONS)
        for part in ("weight", "bias")
    }
    save_file(halves, target)
    return target


def photograph_files(folder: Path) -> list[File]:
    """Return all photographs of a folder; the validation split needs all names."""
    split = find_images([folder])
    return [
        (f"photographs/{path.relative_to(folder).as_posix()}", path) for path in (*split.training, *split.validation)
    ]


def write_parts(files: list[File], folder: Path) -> list[Path]:
    """Write tar archives of at most `LARGEST_PART` bytes, in the order of the files."""
    groups: list[list[File]] = [[]]
    size = TAR_END
    for name, path in files:
        # A name of more than 100 characters takes two blocks more.
        padded = 3 * TAR_BLOCK + -(-path.stat().st_size // TAR_BLOCK) * TAR_BLOCK
        if padded > LARGEST_PART - TAR_END:
            sys.exit(f"{path}: larger than a part of {LARGEST_PART // 1_000_000} MB; leave it out")
        if size + padded > LARGEST_PART:
            groups.append([])
            size = TAR_END
        groups[-1].append((name, path))
        size += padded
    parts = []
    for number, group in enumerate(groups, start=1):
        parts.append(folder / f"part-{number}.tar")
        with tarfile.open(parts[-1], "w") as archive:
            for name, path in group:
                archive.add(path, name)
    return parts


def commands(parts: list[Path], options: argparse.Namespace) -> str:
    """Return the commands for the GPU machine and for this one."""
    sizes = ", ".join(f"{part.name} {part.stat().st_size / 1e6:.1f} MB" for part in parts)
    interpreter = shutil.which("sdcodec") or "sdcodec"
    return f"""\
{len(parts)} parts in {options.out}: {sizes}

On the GPU machine, with the parts in the current folder:

    mkdir -p train && for part in part-*.tar; do tar -xf "$part" -C train; done
    cd train && python3 -m pip install -q --no-index --no-deps --target site wheels/*.whl
    export PYTHONPATH="$PWD:$PWD/site" PYTHONUNBUFFERED=1
    setsid nohup python3 -m sdcodec train recipe.toml --data photographs --vgg vgg16.safetensors \\
        --minutes {options.minutes:g} --set output=run > train.log 2>&1 < /dev/null &
    tail -n 3 train.log                     # progress, and the time left

Each stage of a run of all has a folder: train/run-codec/, train/run-realism/, and train/run/ for the last. Every two
minutes averages/ in that of the present stage is complete: at most eight files of 15 MB; a finished stage has its model
in bundle/. Copy both to RUN-codec/, RUN-realism/ and RUN/ on this machine, even if the run was cut, and write the model
of the stage that was reached:

    {interpreter} train {options.recipe} --data {options.data} --set output={Path("RUN").resolve()} --export"""


if __name__ == "__main__":
    main()
