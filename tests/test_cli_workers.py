"""Processes of the commands, CPUs that they may use, and progress."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from sdcodec.errors import OptionError, SdcodecError, warn
from sdcodec_cli import processors, progress
from sdcodec_cli.batch import Outcome, Result, Work
from sdcodec_cli.progress import Reporter, reporting
from sdcodec_cli.workers import here, in_processes

THREADS = 3


@dataclass(frozen=True)
class Spelling:
    """Task whose result is the name of the file and the number of the process.

    Some names have an effect of their own. PyTorch is not loaded.
    """

    broken: Exception | None = None

    def load(self, threads: int | None) -> Work:
        if self.broken:
            raise self.broken

        def work(name: str) -> Result:
            if name == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if name == "ended":
                os._exit(7)
            if name == "slow":
                time.sleep(1)
            if name == "refused":
                raise OptionError("a wrong option")
            if name == "warned":
                warn("a warning", name)
            return Result(name.encode() + b" " + str(os.getpid()).encode(), f"threads {threads}", 1, 1)

        return work


def outcomes(names: list[str], workers: int = 2, task: Spelling | None = None) -> dict[int, Outcome]:
    return dict(in_processes(task or Spelling(), names, workers, THREADS, lambda: None))


def data_of(outcome: Outcome) -> tuple[str, int]:
    assert outcome.result
    name, process = outcome.result.data.decode().split()
    return name, int(process)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_process_that_dies_is_one_failed_file() -> None:
    names = ["a", "killed", "b", "ended", "c", "refused", "warned"]
    found = outcomes(names)
    assert sorted(found) == [*range(7)]
    assert [data_of(found[index])[0] for index in (0, 2, 4, 6)] == ["a", "b", "c", "warned"]
    assert os.getpid() not in {data_of(found[index])[1] for index in (0, 2, 4, 6)}
    assert found[1].error.startswith("killed: its process was ended (signal SIGKILL)") and not found[1].result
    assert found[3].error.startswith("ended: its process was ended (status 7)")
    assert found[5].wrong_use and found[5].error == "refused: a wrong option"
    assert found[6].warnings == ("warned: warning: a warning",)
    assert {found[index].result.line for index in (0, 2, 4, 6)} == {f"threads {THREADS}"}  # type: ignore[union-attr]


def test_a_free_process_takes_the_next_file() -> None:
    ends = [index for index, _ in in_processes(Spelling(), ["slow", "a", "b", "c"], 2, 1, lambda: None)]
    assert ends[-1] == 0
    assert [index for index, _ in here(Spelling(), ["slow", "a"], None)] == [0, 1]


@pytest.mark.parametrize("error", [OptionError("wrong"), SdcodecError("no model")])
def test_a_task_that_cannot_be_loaded_ends_the_command(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        outcomes(["a", "b"], task=Spelling(error))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_all_processes_end_with_the_iterator() -> None:
    iterator = in_processes(Spelling(), ["a", "slow", "slow"], 2, 1, lambda: None)
    _, process = data_of(next(iterator)[1])
    start = time.monotonic()
    iterator.close()
    assert time.monotonic() - start < 1
    with pytest.raises(OSError):
        os.kill(process, 0)


# CPUs


def test_cpus_are_limited_by_affinity_and_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "CGROUPS", tmp_path)
    monkeypatch.setattr(processors, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert processors.available() == 8
    (tmp_path / "membership").write_text("12:cpu,cpuacct:/old\n0::/user/app\n")
    for name, text, expected in (
        ("user/app/cpu.max", "max 100000\n", 8),
        ("user/cpu.max", "550000 100000\n", 6),  # 5.5 CPUs
        ("user/app/cpu.max", "200000 100000\n", 2),
        ("cpu.max", "50000 100000\n", 1),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        assert processors.available() == expected
    monkeypatch.setattr(processors, "CGROUPS", tmp_path / "version1")
    (tmp_path / "version1" / "cpu" / "old").mkdir(parents=True)
    for name, text in (("cfs_quota_us", "300000"), ("cfs_period_us", "100000")):
        (tmp_path / "version1" / "cpu" / "old" / f"cpu.{name}").write_text(text)
    assert processors.available() == 3
    (tmp_path / "version1" / "cpu" / "old" / "cpu.cfs_quota_us").write_text("-1\n")
    assert processors.available() == 8


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def steps(reporter: Reporter) -> None:
    for name in "ab":
        reporter.result(f"{name}: done")
        reporter.step()
        reporter.idle()
    reporter.error("c: broken")


def run_reporter(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, quiet: bool = False, bar: bool = True) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with reporting(3, label="encoding", quiet=quiet, progress=bar, on_stderr=False) as reporter:
        steps(reporter)
    return stream.getvalue()


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}])
def test_a_bar_is_drawn_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variables: dict[str, str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    drawn = run_reporter(monkeypatch, Terminal())
    assert "encoding:  67%" in drawn and "2/3" in drawn and "<00:0" in drawn  # the time left
    assert re.search(r"\r *\r?sdcodec: c: broken\n", drawn)  # above the bar, a whole line
    assert capsys.readouterr().out == "a: done\nb: done\n"
    assert run_reporter(monkeypatch, io.StringIO()) == "sdcodec: c: broken\n"


def test_no_bar_where_it_cannot_be_drawn_or_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert run_reporter(monkeypatch, Terminal(), bar=False) == "sdcodec: c: broken\n"
    assert run_reporter(monkeypatch, Terminal(), quiet=True) == "sdcodec: c: broken\n"
    monkeypatch.setenv("TERM", "dumb")
    assert run_reporter(monkeypatch, Terminal()) == "sdcodec: c: broken\n"


def test_a_bar_for_a_code_page(monkeypatch: pytest.MonkeyPatch) -> None:
    class CodePage(Terminal):
        encoding = "cp1252"  # type: ignore[assignment]

    monkeypatch.setenv("TERM", "xterm")
    drawn = run_reporter(monkeypatch, CodePage())
    assert "67%" in drawn and drawn.isascii()


def test_lines_now_and_then_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    printed = run_reporter(monkeypatch, io.StringIO()).splitlines()
    assert printed[0] == "sdcodec: encoding: 2 of 3 files, about 0:00:06 left"
    assert printed[1] == "sdcodec: c: broken" and len(printed) == 2
