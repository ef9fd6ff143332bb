"""End commands at every operation on files, and check what they leave.

    python benchmarks/deaths.py
    python benchmarks/deaths.py --commands encode,train --faults kill,full --points 10

A command runs in a child process whose n-th operation (open for writing, write, rename, delete, lock, ...) fails:

    kill      the process dies; of a write, half is written
    full      the disk is full from here on
    readonly  the disk is read-only from here on
    io        this operation fails
    vanish    the inputs are gone from here on
    pair      the process stops; a second one runs the same command to its end; the first continues
    cut       the process dies when a file reaches n bytes, also within a library that is not written in Python
    limit     no file can exceed n bytes

Afterwards every output has to be absent, old, or new and whole, and an error has to be one line. The same command
without a fault then has to finish the work and to delete what was left, but not the temporary file of a living process.
Linux only.
"""

from __future__ import annotations

import argparse
import csv
import errno
import fcntl
import json
import mmap
import os
import random
import re
import resource
import shutil
import signal
import stat
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")  # children are forked, which PyTorch's threads do not survive

import _pyio
import builtins
import io

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

from sdcodec.autoencoders.conv import ConvConfig
from sdcodec.priors.config import PriorConfig
from sdcodec.training.export import export
from sdcodec.training.model import TrainingModel
from sdcodec_cli.main import main as sdcodec_main

FAULTS = ("kill", "full", "readonly", "io", "vanish", "pair", "cut", "limit")
BY_BYTES = ("cut", "limit")
OPERATIONS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "fcntl.flock")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
NEEDS_ROOM = ("open", "os.mkdir", "write")
TIME_LIMIT = 120.0  # seconds of a command
AVERAGES = re.compile(r"average-\d+-")
LIVE = ".sdcodec-0123456789abcdef.tmp"
SMALL = {"latent_channels": 8, "encoder_width_4": 16, "encoder_width_8": 16, "encoder_blocks_8": 1}
SMALL |= {"decoder_width_8": 16, "decoder_blocks_8": 1, "decoder_width_4": 16, "decoder_blocks_4": 1}
SMALL |= {"decoder_width_2": 8}
PRIOR = {"latent_channels": 8, "hyper_channels": 4, "width": 16, "middle": 16, "blocks": 1, "hyper_context": 8}
TIMED = (".jsonl", "log.csv", "environment.json")  # results that hold times


@dataclass(frozen=True)
class Case:
    """A command on a prepared folder.

    again: the command that finishes the work, from the folder as it was left. old: commands before it, whose results
    are replaced. shared: folders with the temporary of a living process. folders: results that are whole together, by
    the file that is written last.
    """

    name: str
    arguments: tuple[str, ...]
    again: Callable[[], tuple[str, ...]]
    old: tuple[tuple[str, ...], ...] = ()
    shared: tuple[str, ...] = ()
    folders: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Fault:
    """A kind of fault, and the operation or the byte at which it happens."""

    kind: str
    point: int


@dataclass(frozen=True)
class End:
    """Status of a child, its standard error, and the number of its operations.

    A negative status is a signal.
    """

    status: int
    text: str
    operations: int


class Injector:
    """Counts operations below a folder, and lets one or all from it on fail."""

    def __init__(self, folder: Path, fault: Fault | None, shared: mmap.mmap) -> None:
        self.folder, self.fault, self.shared = os.path.realpath(folder) + os.sep, fault, shared
        self.count, self.inside, self._write = 0, False, os.write

    def install(self) -> None:
        """Watch this process, whose files become those of _pyio."""
        builtins.open = io.open = _pyio.open  # type: ignore[assignment]
        os.write = self.write
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.inside:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes, os.PathLike)) and flags & WRITING and self._below(path):
                self.operation("open")
        elif event in OPERATIONS and (not isinstance(arguments[0], (str, bytes)) or self._below(arguments[0])):
            self.operation(event)

    def write(self, descriptor: int, data: bytes) -> int:
        if descriptor > 2 and stat.S_ISREG(os.fstat(descriptor).st_mode):
            self.operation("write", lambda: self._write(descriptor, bytes(data)[: len(data) // 2]))
        return self._write(descriptor, data)

    def operation(self, kind: str, half: Callable[[], object] = lambda: None) -> None:
        """Count an operation, and let it fail if it is time. `half` does a half of it."""
        self.count += 1
        self.shared[:8] = struct.pack("<q", self.count)
        fault = self.fault
        if fault is None or fault.kind in BY_BYTES or self.count < fault.point:
            return
        first = self.count == fault.point
        if fault.kind == "kill":
            half()
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "full" and kind in NEEDS_ROOM:
            half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif fault.kind == "readonly" and kind != "fcntl.flock":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        elif fault.kind == "io" and first:
            half()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        elif fault.kind == "vanish" and first:
            self.inside = True
            os.rename("inputs", "inputs.gone")
            self.inside = False
        elif fault.kind == "pair" and first:
            os.kill(os.getpid(), signal.SIGSTOP)

    def _below(self, path: Any) -> bool:
        return os.path.realpath(os.fsdecode(path)).startswith(self.folder)


class Child:
    """A command in a forked process, in the present folder."""

    def __init__(self, arguments: tuple[str, ...], fault: Fault | None) -> None:
        self.shared = mmap.mmap(-1, 8)
        self.error, self.told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(arguments, fault)
        os.close(self.told)

    def _run(self, arguments: tuple[str, ...], fault: Fault | None) -> NoReturn:
        status = 99
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(self.told, 2)
            # New ones: the parent's may be of a file that can seek, and a pipe cannot.
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            if fault is not None and fault.kind in BY_BYTES:
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL if fault.kind == "cut" else signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (fault.point, fault.point))
            Injector(Path.cwd(), fault, self.shared).install()
            sdcodec_main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def wait(self, *, stopped: bool = False) -> End | None:
        """Return how it ended, or None if it `stopped`."""
        end = time.monotonic() + TIME_LIMIT
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG | (os.WUNTRACED if stopped else 0))
            if pid and os.WIFSTOPPED(status):
                return None
            if pid:
                break
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return End(98, "the command hangs", self.operations)
            time.sleep(0.002)
        with os.fdopen(self.error, "rb") as error:  # a pipe has room for 65,536 bytes
            text = error.read().decode("utf-8", "replace")
        return End(os.waitstatus_to_exitcode(status), text, self.operations)

    @property
    def operations(self) -> int:
        return int(struct.unpack("<q", self.shared[:8])[0])


class Bench:
    """The folders of all cases: `template` is copied to `work` for each attempt."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.case, self.work = case, folder / "work"
        self.template = folder / "template"
        self.neighbours: list[int] = []
        self.old: dict[str, bytes] = {}
        self.new: dict[str, bytes] = {}

    def prepare(self) -> int:
        """Run the command undisturbed, twice; return the number of its operations."""
        self.fresh(self.template)
        self.load_modules()
        self.fresh(self.template)
        for arguments in self.case.old:
            self.undisturbed(arguments)
        if self.case.old:
            self.forget_neighbours()
            ready = self.template.with_name(f"template-{self.case.name.replace(' ', '')}")
            shutil.copytree(self.work, ready, ignore=shutil.ignore_patterns(".sdcodec-*"))
            self.template = ready
        before = set(contents(self.template))
        self.old = contents(self.template)
        found = []
        for _ in range(2):
            self.fresh(self.template)
            operations = self.undisturbed(self.case.arguments)
            found.append(contents(self.work))
        if set(found[0]) != set(found[1]):
            raise SystemExit(f"{self.case.name}: two runs write different files")
        self.new = found[0]
        # Files that depend on time are checked by reading them.
        self.exact = {name for name in found[0] if found[0][name] == found[1][name]}
        self.inputs = {name for name in before if self.old[name] == self.new.get(name)}
        return operations

    def load_modules(self) -> None:
        """Run the command in this process: its children then need not import modules."""
        with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
            for arguments in (*self.case.old, self.case.arguments):
                with suppress(SystemExit):
                    sdcodec_main(arguments)

    def undisturbed(self, arguments: tuple[str, ...]) -> int:
        end = Child(arguments, None).wait()
        assert end is not None
        if end.status:
            raise SystemExit(f"{self.case.name}: status {end.status} without a fault: {end.text}")
        return end.operations

    def fresh(self, template: Path) -> None:
        """Make the working folder anew, and a living neighbour's temporaries in it."""
        self.forget_neighbours()
        os.chdir(template)
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(template, self.work)
        os.chdir(self.work)
        for name in self.case.shared:
            if (self.work / name).is_dir():
                self.neighbours.append(os.open(self.work / name / LIVE, os.O_CREAT | os.O_RDONLY))
                fcntl.flock(self.neighbours[-1], fcntl.LOCK_EX)

    def forget_neighbours(self) -> None:
        while self.neighbours:
            os.close(self.neighbours.pop())

    def attempt(self, fault: Fault) -> list[str]:
        """Let the command meet a fault; return what is wrong afterwards."""
        self.fresh(self.template)
        ends, complaints = self.ends(fault), []
        for end in ends:
            complaints += self.about_end(end, fault)
        complaints += self.about_files(unfinished=True, others=fault.kind == "vanish")
        if all(end.status == 0 for end in ends):
            missing = [name for name in self.new if name not in self.inputs and not (self.work / name).exists()]
            complaints += [f"status 0 without {name}" for name in missing]
        if (self.work / "inputs.gone").exists():
            os.rename("inputs.gone", "inputs")
        again = Child(self.case.again(), None).wait()
        assert again is not None
        if again.status:
            complaints.append(f"the next run ends with status {again.status}: {again.text.strip()[:300]}")
        else:
            complaints += [f"after the next run: {text}" for text in self.about_files(unfinished=False)]
        complaints += [
            f"the temporary of a living process is gone from {name}"
            for name in self.case.shared
            if not (self.work / name / LIVE).exists()
        ]
        return complaints

    def ends(self, fault: Fault) -> list[End]:
        child = Child(self.case.arguments, fault)
        first = child.wait(stopped=True)
        if first is not None:
            return [first]
        second = Child(self.case.arguments, None).wait()
        os.kill(child.pid, signal.SIGCONT)
        first = child.wait()
        assert first is not None and second is not None
        return [second, first]

    def about_end(self, end: End, fault: Fault) -> list[str]:
        if end.status == -signal.SIGKILL and fault.kind == "kill":
            return []
        if end.status == -signal.SIGXFSZ and fault.kind == "cut":
            return []
        if end.status not in (0, 1, 2):
            return [f"status {end.status}: {end.text.strip()[:300]}"]
        lines = end.text.splitlines()
        wrong = [line for line in lines if not line.startswith("sdcodec: ") or "unexpected" in line]
        if end.status and not lines:
            wrong.append("an error without a line")
        return [f"standard error: {line[:300]}" for line in wrong[-1:]]

    def about_files(self, *, unfinished: bool, others: bool = False) -> list[str]:
        """Compare the files with those of undisturbed runs.

        Unfinished ones may be absent or old, with temporaries beside them. `others`: fewer inputs gave other results.
        """
        found, complaints = contents(self.work), []
        for name, data in found.items():
            moved = name.replace("inputs.gone/", "inputs/")
            if moved in self.inputs and data == self.old[moved]:
                continue
            if Path(name).name == LIVE or (unfinished and ".sdcodec-" in name):
                continue
            if data == self.new.get(name) or (unfinished and self.old.get(name) == data):
                continue
            path, earlier = self.work / name, bool(unfinished and AVERAGES.search(name))
            if earlier:  # weights of an earlier step
                name = AVERAGES.sub("average-3-", name)
            if name not in self.new:
                complaints.append(f"{name} is left")
            elif name in self.exact and not others and not name.endswith(TIMED) and not earlier:
                complaints.append(f"{name} is not whole")
            elif reason := damage(path, data, unfinished=unfinished):
                complaints.append(f"{name}: {reason}")
        if not unfinished:
            complaints += [f"{name} is missing" for name in self.new if name not in found]
            temporaries = [str(path.relative_to(self.work)) for path in self.work.rglob(".sdcodec-*") if path.is_dir()]
            complaints += [f"{path} is left" for path in temporaries]
        for folder, last in self.case.folders:
            if f"{folder}/{last}" in found and not any(
                all(found.get(name) == data for name, data in state.items() if name.startswith(f"{folder}/"))
                for state in (self.old, self.new)
                if f"{folder}/{last}" in state
            ):
                complaints.append(f"{folder} is half a model")
        return complaints


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files by their relative names."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def damage(path: Path, data: bytes, *, unfinished: bool) -> str | None:
    """Return why a file cannot be read, or None.

    While unfinished, the last line of a journal may be incomplete.
    """
    try:
        match path.suffix:
            case ".json":
                json.loads(data)
            case ".jsonl" | ".csv":
                lines = data.decode().split("\n")
                if lines[-1] and not (unfinished and path.name in ("rows.jsonl", "log.csv")):
                    return "the last line is incomplete"
                if path.suffix == ".jsonl":
                    [json.loads(line) for line in lines[:-1]]
                elif len({len(row) for row in csv.reader(lines[:-1])}) > 1:
                    return "rows of different lengths"
            case ".png" | ".jpg":
                with Image.open(path) as image:
                    image.load()
            case ".html":
                return None if data.rstrip().endswith(b"</html>") else "the page has no end"
            case ".safetensors":
                with safe_open(path, "pt") as tensors:
                    [tensors.get_tensor(key) for key in tensors.keys()]  # noqa: SIM118 (not a dictionary)
            case ".pt":
                torch.load(path, weights_only=True)
            case _:
                return "differs from that of another run"
    except Exception as error:  # whatever a reader says
        return f"cannot be read ({error})"
    return None


def make_template(folder: Path, *, diffusers: bool) -> None:
    """Write pictures, a small random model, a recipe, and an autoencoder of diffusers."""
    (folder / "inputs").mkdir(parents=True)
    for name in ("home", "out", "temporary", "runs"):
        (folder / name).mkdir()
    rng = np.random.default_rng(1)
    for name in "abc":
        y, x = np.mgrid[0:96, 0:128]
        pixels = (
            128
            + 90 * np.sin(x / 17 + ord(name))[..., None] * np.cos(y / 11)[..., None]
            + rng.normal(0, 6, (96, 128, 3))
        )
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "inputs" / f"{name}.png")
    torch.manual_seed(5)
    model = TrainingModel(ConvConfig(**SMALL), PriorConfig(**PRIOR))
    images = np.stack([np.asarray(Image.open(folder / "inputs" / f"{name}.png")) for name in "abc"])
    export(model.state_dict(), ConvConfig(**SMALL), PriorConfig(**PRIOR), images, folder / "model", "random", {})
    sections = [
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
        for name, values in (("autoencoder", SMALL), ("prior", PRIOR))
    ]
    settings = (
        'name = "small"\nlearning_rate = 2e-3\nlpips_weight = 0.0\nstructure_weight = 5.0\ncrop_size = 64\nbatch = 2\n'
    )
    (folder / "recipe.toml").write_text(settings + "validation_images = 1\nvalidate_every = 2\n" + "\n".join(sections))
    if diffusers:
        from diffusers import AutoencoderTiny

        blocks = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
        AutoencoderTiny(**blocks, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4).save_pretrained(
            folder / "inputs" / "vae"
        )


def cases() -> list[Case]:
    """Return all commands; their folders are those of `make_template`."""
    device = ("--device", "cpu")
    pictures = tuple(f"inputs/{name}.png" for name in "abc")
    files = tuple(f"out/{name}.sdc" for name in "abc")
    encode = ("encode", *pictures, "-o", "out", "--model", "./model", "--effort", "0", *device)
    decode = ("decode", *files, "-o", "runs", "--model", "./model", *device)
    evaluation = ("eval", *pictures[:2], "--out", "runs/results", "--codecs", "jpeg", "--metrics", "psnr")
    evaluation += ("--codec", "small=sdcodec,model=./model,effort=0,device=cpu", "--bytes", "1500", "--no-ceiling")
    add = ("models", "add", "tiny", "--from", "inputs/vae", "--dtype", "float32")
    train = ("train", "recipe.toml", "--data", "inputs", "--steps", "3", "--set", 'output="runs/run"')
    bundle = ("runs/run/bundle", "bundle.json")

    def resumed(arguments: tuple[str, ...], file: str) -> Callable[[], tuple[str, ...]]:
        return lambda: (*arguments, "--resume") if os.path.exists(file) else arguments

    return [
        Case("encode", (*encode, "-q", "50"), lambda: (*encode, "-q", "50", "--skip-existing"), shared=("out",)),
        Case(
            "encode --force",
            (*encode, "-q", "50", "--force"),
            lambda: (*encode, "-q", "50", "--force"),
            old=((*encode, "-q", "20"),),
            shared=("out",),
        ),
        Case("decode", decode, lambda: (*decode, "--skip-existing"), old=(encode,), shared=("runs",)),
        Case("eval", evaluation, resumed(evaluation, "runs/results/environment.json")),
        Case(
            "eval --force",
            (*evaluation, "--force"),
            lambda: (*evaluation, "--force"),
            old=(evaluation,),
            shared=("runs/results",),
        ),
        Case("models add", add, lambda: (*add, "--force"), shared=("home",), folders=(("home/tiny", "bundle.json"),)),
        Case(
            "models add --force",
            (*add, "--force"),
            lambda: (*add, "--force"),
            old=((*add[:-1], "float16"),),
            shared=("home",),
            folders=(("home/tiny", "bundle.json"),),
        ),
        Case("train", train, resumed(train, "runs/run/last.pt"), shared=("runs",), folders=(bundle,)),
        Case(
            "train --export",
            (*train[:4], *train[6:], "--export"),
            lambda: (*train[:4], *train[6:], "--export"),
            old=(train,),
            shared=("runs", "runs/run"),
            folders=(bundle,),
        ),
    ]


def chosen(fault: str, operations: int, largest: int, points: int, rng: random.Random) -> list[int]:
    """Return the operations, or bytes, at which a command meets a fault."""
    if fault in BY_BYTES:
        count = points or 16
        return sorted({0, *(int(largest * (part + rng.random()) / count) for part in range(count))})[: count + 1]
    everything = range(1, operations + 1)
    return [*everything] if not points or points >= operations else sorted(rng.sample(everything, points))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", default="", help="names that begin so, with commas between (default: all)")
    parser.add_argument("--faults", default=",".join(FAULTS), help="kinds, with commas between (default: all)")
    parser.add_argument("--points", type=int, default=0, help="of a command and a fault, at most (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of points")
    options = parser.parse_args()
    prefixes, faults = tuple(options.commands.split(",")), options.faults.split(",")
    if unknown := set(faults) - set(FAULTS):
        raise SystemExit(f"unknown faults: {', '.join(sorted(unknown))}; choose from {', '.join(FAULTS)}")
    selected = [case for case in cases() if case.name.startswith(prefixes)]
    torch.set_num_threads(1)
    wrong, deaths = 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        make_template(folder / "template", diffusers=any(case.name.startswith("models") for case in selected))
        os.environ["SDCODEC_HOME"] = str(folder / "work" / "home")
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "work" / "temporary")
        print(f"| command | operations | {' | '.join(faults)} | faults found | seconds |", flush=True)
        print(f"|{'---|' * (len(faults) + 4)}", flush=True)
        for case in selected:
            start, counts, complaints = time.monotonic(), Counter(), []
            bench = Bench(folder, case)
            operations = bench.prepare()
            largest = max(len(data) for path, data in bench.new.items() if path.startswith(("out/", "runs/", "home/")))
            rng = random.Random(f"{options.seed} {case.name}")
            for fault in faults:
                for point in chosen(fault, operations, largest, options.points, rng):
                    counts[fault] += 1
                    found = bench.attempt(Fault(fault, point))
                    complaints += [f"{case.name}, {fault} at {point}: {text}" for text in found]
            seconds = time.monotonic() - start
            cells = [counts[fault] for fault in faults]
            print(
                f"| {case.name} | {operations} | {' | '.join(map(str, cells))} | {len(complaints)} | {seconds:.0f} |",
                flush=True,
            )
            for text in complaints:
                print(f"  {re.sub(r'[0-9a-f]{16}', '*', text)}", file=sys.stderr, flush=True)
            wrong += len(complaints)
            deaths += counts["kill"] + counts["cut"]
            bench.forget_neighbours()
            os.chdir(folder)
    print(f"\n{deaths} deaths, {wrong} faults found")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
