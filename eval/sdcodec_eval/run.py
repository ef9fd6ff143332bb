"""A run from beginning to end: pictures to processes, journals to tables. It can be killed and resumed at any moment."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for_processes
from pathlib import Path
from typing import Any

import torch

from sdcodec.errors import OptionError, OutputError, SdcodecError
from sdcodec.files import atomic_write
from sdcodec_eval.codecs.protocol import ImageCodec
from sdcodec_eval.codecs.registry import build
from sdcodec_eval.environment import describe, machine, threads_for
from sdcodec_eval.evaluation import FILES, Evaluator
from sdcodec_eval.pictures import Source
from sdcodec_eval.plan import Plan
from sdcodec_eval.plots import draw
from sdcodec_eval.rows import JOURNAL, Record, read_journal, to_csv
from sdcodec_eval.summary import Summary, compressai_json, summarise, to_json

ENVIRONMENT, RESULTS, TABLE = "environment.json", "results.json", "results.csv"
MADE = (FILES, "plots", "curves", ENVIRONMENT, RESULTS, TABLE, "report.html")
POLL_SECONDS = 0.5

Progress = Callable[[int], None]


class WorkerError(SdcodecError):
    """A worker process has died."""


def evaluate(
    plan: Plan,
    sources: Sequence[Source],
    folder: Path,
    *,
    workers: int = 1,
    resume: bool = False,
    force: bool = False,
    anchor: str | None = None,
    begun: Callable[[int], None] = lambda rows: None,
    progress: Progress = lambda rows: None,
) -> Summary:
    """Computes every row that `folder` does not hold yet, and writes the tables.

    workers: processes; each loads the networks once, and PyTorch's threads are shared out among them.
    resume: go on in a folder that holds a part of the same run; force: throw away what it holds.
    anchor: the label that BD-rates are against, see `summarise`.
    begun: told how many rows are to be computed; progress: told how many more are there.

    Raises OptionError where the plan cannot be carried out or is not the one that is resumed, OutputError where the folder
    is in use, WorkerError where a worker has died. Errors of single files and codecs are in the rows.
    """
    if workers < 1:
        raise OptionError("at least one worker is needed")
    if anchor is not None and anchor not in [spec.label for spec in plan.codecs]:
        raise OptionError(f"the anchor {anchor!r} is not among the codecs of this run")
    evaluator = Evaluator(plan)
    for label, codec in evaluator.codecs.items():
        _check_qualities(plan, label, codec)
    environment = describe(plan, evaluator.codecs, sources, workers)
    _prepare(folder, environment, resume=resume, force=force)
    points = {spec.label: plan.points(spec.label) for spec in plan.codecs}
    per_picture = sum(len(chosen) for chosen in points.values())
    begun(sum(per_picture - len(_record(folder, source).rows) for source in sources))
    if workers == 1:
        for source in sources:
            for _ in evaluator.evaluate(source, folder):
                progress(1)
    else:
        _in_processes(plan, sources, folder, workers, progress)
    records = {source.name: _record(folder, source) for source in sources}
    summary = summarise(plan, evaluator.codecs, evaluator.reference, records, anchor)
    write_tables(summary, folder)
    return summary


def write_tables(summary: Summary, folder: Path) -> None:
    """results.csv, results.json, CompressAI's curves and the plots, each whole or not at all."""
    atomic_write(folder / TABLE, to_csv(summary.rows, summary.metrics).encode(), force=True)
    _write_json(folder / RESULTS, to_json(summary))
    (folder / "curves").mkdir(exist_ok=True)
    for label in summary.codecs:
        _write_json(folder / "curves" / f"{label}.json", compressai_json(summary, label))
    (folder / "plots").mkdir(exist_ok=True)
    for name, data in draw(summary).items():
        atomic_write(folder / "plots" / name, data, force=True)


def codecs_of(folder: Path) -> dict[str, ImageCodec]:
    """The codecs of a finished run by label, made again: to decode the files that its rows name.

    Raises OptionError where the folder holds no run, or a codec cannot be had here.
    """
    return {spec.label: build(spec) for spec in Plan.from_json(_environment(folder)["options"]).codecs}


def _check_qualities(plan: Plan, label: str, codec: ImageCodec) -> None:
    chosen = plan.qualities.get(label, ())
    if wrong := [quality for quality in chosen if quality not in codec.qualities]:
        first, last = codec.qualities[0], codec.qualities[-1]
        raise OptionError(
            f"{label} has no quality {wrong[0]:g}; it has {len(codec.qualities)} from {first:g} to {last:g}"
        )


def _prepare(folder: Path, environment: dict[str, Any], *, resume: bool, force: bool) -> None:
    """Makes the folder ready, or sees that what it holds is a part of the same run."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; give a folder")
    started = (folder / ENVIRONMENT).is_file()
    if started and force:
        for name in MADE:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        started = False
    if started and not resume:
        raise OutputError(
            f"{folder}: holds results already; give --resume to go on with them or --force to replace them"
        )
    if not started:
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / ENVIRONMENT, environment)
        return
    earlier = _environment(folder)
    for part in ("options", "images", "settings"):
        if different := _differing(earlier[part], environment[part]):
            raise OptionError(
                f"{folder}: holds a run with other {part} ({', '.join(different)}); "
                "give the same ones to resume it, or another folder"
            )
    now = machine()
    if changed := [key for key in now if now[key] != earlier.get(key)]:
        earlier.setdefault("resumed_with", []).append({key: now[key] for key in changed})
        _write_json(folder / ENVIRONMENT, earlier)
    for left in folder.glob(f"{FILES}/*/.sdcodec-*.tmp"):  # a kill in the middle of writing a file
        left.unlink()


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key for key in {**one, **other} if one.get(key) != other.get(key)]


def _environment(folder: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{folder}: holds no results of sdcodec eval ({ENVIRONMENT} cannot be read)") from error
    return values


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    atomic_write(path, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode(), force=True)


def _record(folder: Path, source: Source) -> Record:
    return read_journal(folder / FILES / source.name / JOURNAL)


# Worker processes. They are spawned, not forked, since PyTorch's threads do not survive a fork; each has an Evaluator.

_evaluator: Evaluator
_counter: Any
_stop: Any


def _begin(plan: Plan, threads: int, counter: Any, stop: Any) -> None:
    global _evaluator, _counter, _stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _evaluator, _counter, _stop = Evaluator(plan), counter, stop


def _end_with_parent() -> None:
    """A worker that outlives its parent would go on writing into a folder that is being resumed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_processes([parent.sentinel])
        os._exit(1)


def _work(source: Source, folder: Path) -> None:
    if _stop.is_set():
        return
    for _ in _evaluator.evaluate(source, folder):
        with _counter.get_lock():
            _counter.value += 1
        if _stop.is_set():
            return


def _in_processes(plan: Plan, sources: Sequence[Source], folder: Path, workers: int, progress: Progress) -> None:
    context = multiprocessing.get_context("spawn")
    counter, stop, told = context.Value("Q", 0), context.Event(), 0
    start = (plan, threads_for(workers), counter, stop)
    with ProcessPoolExecutor(workers, context, _begin, start) as pool:
        try:
            with _without_interrupts():
                waiting = {pool.submit(_work, source, folder) for source in sources}
            while waiting:
                done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
                told, before = counter.value, told
                progress(told - before)
                for future in done:
                    future.result()
        except BrokenProcessPool as error:
            raise WorkerError(
                "a worker has died, for want of memory perhaps; go on with --resume and fewer --workers"
            ) from error
        finally:
            stop.set()  # after the rows that are being computed
            pool.shutdown(cancel_futures=True)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started within ignore Ctrl-C, which a terminal sends to all of them: only this one is to answer it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
