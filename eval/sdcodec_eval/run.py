"""Evaluation run: distribute the images, collect the journals, write the tables.

A run can be killed at any moment and resumed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
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
from sdcodec.temporaries import claimed, remove_abandoned, temporary_folder
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
    """A worker process died."""


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
    """Compute the rows that are missing in `folder`, and write the tables.

    workers: number of processes; each loads the networks, and they share PyTorch's threads.
    resume: continue a part of the same run in `folder`; force: delete the results in `folder`.
    anchor: label of the anchor of the BD-rates, see `summarise`.
    begun: called with the number of rows to compute; progress: called with the number of further finished rows.

    Raises OptionError if the plan is invalid or differs from the resumed run, OutputError if the folder has results,
    is a file, cannot be written, or another process works in it, WorkerError if a worker died. Errors of single images
    and codecs are in the rows; a resumed run computes such rows again.
    """
    if workers < 1:
        raise OptionError("the number of workers is below 1; give at least 1")
    if anchor is not None and anchor not in [spec.label for spec in plan.codecs]:
        raise OptionError(f"the anchor {anchor!r} is not among the codecs of this run; choose one of them")
    evaluator = Evaluator(plan)
    for label, codec in evaluator.codecs.items():
        _check_qualities(plan, label, codec)
    environment = describe(plan, evaluator.codecs, sources, workers)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; give a folder")
    with claimed(folder):
        _prepare(folder, environment, resume=resume, force=force)
        points = {spec.label: plan.points(spec.label) for spec in plan.codecs}
        per_picture = sum(len(chosen) for chosen in points.values())
        begun(sum(per_picture - _record(folder, source).finished for source in sources))
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
    """Write results.csv, results.json, CompressAI's curves and the plots."""
    atomic_write(folder / TABLE, to_csv(summary.rows, summary.metrics).encode(), force=True)
    _write_json(folder / RESULTS, to_json(summary))
    (folder / "curves").mkdir(exist_ok=True)
    for label in summary.codecs:
        _write_json(folder / "curves" / f"{label}.json", compressai_json(summary, label))
    (folder / "plots").mkdir(exist_ok=True)
    for name, data in draw(summary).items():
        atomic_write(folder / "plots" / name, data, force=True)


def codecs_of(folder: Path) -> dict[str, ImageCodec]:
    """Build the codecs of a finished run by label, to decode its files.

    Raises OptionError if the folder has no run or a codec is not available.
    """
    return {spec.label: build(spec) for spec in Plan.from_json(_environment(folder)["options"]).codecs}


def _check_qualities(plan: Plan, label: str, codec: ImageCodec) -> None:
    chosen = plan.qualities.get(label, ())
    if wrong := [quality for quality in chosen if quality not in codec.qualities]:
        first, last = codec.qualities[0], codec.qualities[-1]
        raise OptionError(
            f"{label} has no quality {wrong[0]:g}; choose from its {len(codec.qualities)} from {first:g} to {last:g}"
        )


def _prepare(folder: Path, environment: dict[str, Any], *, resume: bool, force: bool) -> None:
    """Prepare the folder, or check that its content is a part of the same run."""
    for place in (folder, *(folder / name for name in ("plots", "curves")), *folder.glob(f"{FILES}/*")):
        remove_abandoned(place)
    started = (folder / ENVIRONMENT).is_file()
    if started and force:
        with temporary_folder(folder) as removed:
            for name in MADE:  # moved as a whole, the files first: no journal is ever left without its files
                if (folder / name).exists():
                    os.rename(folder / name, removed / name)
        started = False
    if started and not resume:
        raise OutputError(
            f"{folder}: has results already; give --resume to continue the run or --force to replace them"
        )
    if not started:
        _write_json(folder / ENVIRONMENT, environment)
        return
    earlier = _environment(folder)
    for part in ("options", "images", "settings"):
        if different := _differing(earlier[part], environment[part]):
            raise OptionError(
                f"{folder}: has a run with other {part} ({', '.join(different)}); "
                "give the same ones to resume it, or another folder"
            )
    now = machine()
    if changed := [key for key in now if now[key] != earlier.get(key)]:
        earlier.setdefault("resumed_with", []).append({key: now[key] for key in changed})
        _write_json(folder / ENVIRONMENT, earlier)


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key for key in {**one, **other} if one.get(key) != other.get(key)]


def _environment(folder: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(
            f"{folder}: {ENVIRONMENT} cannot be read; give a folder with results of sdcodec eval"
        ) from error
    return values


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    atomic_write(path, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode(), force=True)


def _record(folder: Path, source: Source) -> Record:
    return read_journal(folder / FILES / source.name / JOURNAL)


# State of a worker process. Workers are spawned, since PyTorch's threads do not survive a fork.

_evaluator: Evaluator
_counter: Any
_stop: Any


def _begin(plan: Plan, threads: int, counter: Any, stop: Any) -> None:
    global _evaluator, _counter, _stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _evaluator, _counter, _stop = Evaluator(plan), counter, stop


def _end_with_parent() -> None:
    """End this worker with its parent, since the parent's run may be resumed."""
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
    counter, stop, reported = context.Value("Q", 0), context.Event(), 0
    start = (plan, threads_for(workers), counter, stop)
    with ProcessPoolExecutor(workers, context, _begin, start) as pool:
        try:
            with _without_interrupts():
                waiting = {pool.submit(_work, source, folder) for source in sources}
            while waiting:
                done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
                reported, before = counter.value, reported
                progress(reported - before)
                for future in done:
                    future.result()
        except BrokenProcessPool as error:
            raise WorkerError(
                "a worker process died, perhaps out of memory; continue with --resume and fewer --workers"
            ) from error
        finally:
            stop.set()  # the workers finish their present rows
            pool.shutdown(cancel_futures=True)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Make processes started within ignore Ctrl-C, so that only the parent handles it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
