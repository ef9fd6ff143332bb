"""Processes that work on files, one file at a time each.

Each process has a pipe of its own: the parent knows which file a process had when it died, and no lock or queue is
shared that a killed process could leave locked.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from sdcodec.errors import OptionError, SdcodecError
from sdcodec_cli.batch import Outcome, Task, outcome_of
from sdcodec_cli.messages import display_name, explain

TICK = 0.5  # seconds between calls of `idle`


def here(task: Task, sources: Sequence[str], threads: int | None) -> Generator[tuple[int, Outcome]]:
    """Work on the files in this process, in order.

    Yields the index and the outcome of each file. threads: as of Task.load, whose errors are raised.
    """
    work = task.load(threads)
    for index, source in enumerate(sources):
        yield index, outcome_of(work, source)


def in_processes(
    task: Task, sources: Sequence[str], workers: int, threads: int, idle: Callable[[], None]
) -> Generator[tuple[int, Outcome]]:
    """Work on the files in processes of `threads` CPU threads each.

    Yields the index and the outcome of each file as it ends. A process that dies is the failure of its file, and is
    replaced. A file is read when a process is free for it, not before. `idle` is called while all processes are busy.
    All processes are ended when the iterator is closed. Raises SdcodecError if the task cannot be loaded.
    """
    waiting = iter(enumerate(sources))
    team: list[_Worker] = []
    try:
        while True:
            while len(team) < workers and (job := next(waiting, None)) is not None:
                team.append(_start(task, threads, *job))
            if not team:
                return
            ready = wait([worker.pipe for worker in team], TICK)
            if not ready:
                idle()
            for worker in [worker for worker in team if worker.pipe in ready]:
                yield worker.index, worker.outcome()
                job = next(waiting, None) if worker.alive else None
                if job is None:
                    team.remove(worker)
                    worker.end()
                else:
                    worker.give(*job)
    finally:
        with _interrupts_held():
            for worker in team:
                worker.end()


@dataclass
class _Worker:
    """A process, the pipe to it, and the file that it works on."""

    process: SpawnProcess
    pipe: Connection
    index: int
    source: str
    alive: bool = True

    def give(self, index: int, source: str) -> None:
        self.index, self.source = index, source
        with suppress(OSError):  # it died meanwhile: the pipe is at its end, which `outcome` finds
            self.pipe.send(source)

    def outcome(self) -> Outcome:
        """Receive the outcome of the file.

        Raises SdcodecError if the process could not load the task.
        """
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.alive = False
            self.process.join()
            return Outcome(None, f"{display_name(self.source)}: {_cause(self.process.exitcode)}")
        if isinstance(answer, _LoadFailure):
            raise OptionError(answer.error) if answer.wrong_use else SdcodecError(answer.error)
        assert isinstance(answer, Outcome)
        return answer

    def end(self) -> None:
        self.pipe.close()
        self.process.kill()  # it holds nothing that has to be written
        self.process.join()


@dataclass(frozen=True)
class _LoadFailure:
    error: str
    wrong_use: bool


def _cause(status: int | None) -> str:
    reason = f"signal {signal.Signals(-status).name}" if status is not None and status < 0 else f"status {status}"
    return f"its process was ended ({reason}); if memory was short, use fewer --workers or a smaller image"


def _start(task: Task, threads: int, index: int, source: str) -> _Worker:
    context = multiprocessing.get_context("spawn")  # threads of PyTorch do not survive a fork
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, task, threads), daemon=True)
    with _interrupts_held():
        process.start()
    theirs.close()  # the end of the process is then the end of the pipe
    worker = _Worker(process, ours, index, source)
    worker.give(index, source)
    return worker


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C while processes start and end.

    A new process inherits this, so that only the parent is interrupted; Windows has the handler in `_serve` for it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, task: Task, threads: int) -> None:
    """Work on the files whose names come through the pipe, until its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work = None
    while True:
        try:
            source = pipe.recv()
            if work is None:
                try:
                    work = task.load(threads)
                except Exception as error:
                    pipe.send(_LoadFailure(explain(error), isinstance(error, OptionError)))
                    return
            pipe.send(outcome_of(work, source))
        except (EOFError, OSError):  # the parent has gone
            return
