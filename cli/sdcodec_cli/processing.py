"""The loop of `encode` and `decode` over their files: work, write, report."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field

import click

from sdcodec.errors import OptionError
from sdcodec.files import STANDARD_STREAM, refuse_existing, write_bytes
from sdcodec_cli import workers
from sdcodec_cli.batch import Outcome, Result, Task
from sdcodec_cli.conversion import OutputOptions
from sdcodec_cli.messages import display_name, explain
from sdcodec_cli.planning import Job, Plan
from sdcodec_cli.progress import Reporter, reporting


@dataclass(frozen=True)
class _Lines:
    """Lines to print for a file: warnings, then its result or its error.

    wrong_use: the error is due to the options.
    """

    result: str = ""
    error: str = ""
    failed: bool = False
    wrong_use: bool = False
    warnings: tuple[str, ...] = ()


@dataclass
class _Totals:
    """Sums over the files of a command."""

    files: int
    failed: int = 0
    wrong_use: int = 0
    skipped: int = 0
    written: int = 0
    larger: int = 0
    pixels: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def add(self, result: Result) -> None:
        self.written += 1
        self.larger += result.larger
        self.pixels += result.pixels
        self.bytes_in += result.bytes_in
        self.bytes_out += len(result.data)

    @property
    def failures(self) -> str:
        return f"{self.failed} of {self.files} files failed"

    def summary(self, seconds: float) -> str:
        """Return the sums as one line."""
        parts = [self.failures] if self.failed else []
        parts += [f"{self.skipped} skipped"] if self.skipped else []
        parts += [f"{self.written} written"] if parts else [f"{self.written} files written"]
        line = ", ".join(parts)
        if not self.written:
            return line
        line += f": {self.pixels} pixels, {self.bytes_in} -> {self.bytes_out} bytes"
        if self.bytes_in:
            smaller = self.bytes_in >= self.bytes_out
            ratio = self.bytes_in / self.bytes_out if smaller else self.bytes_out / self.bytes_in
            line += f" ({ratio:.3g} : 1)" if smaller else f" (1 : {ratio:.3g})"
        line += f", {self.larger} larger than the input" if self.larger else ""
        return f"{line}, {seconds:.1f} s"


@dataclass
class _Printer:
    """Print the lines of files in the order of the files, whichever ends first."""

    reporter: Reporter
    totals: _Totals
    held: dict[int, _Lines] = field(default_factory=dict)
    next: int = 0

    def put(self, index: int, lines: _Lines) -> None:
        self.totals.failed += lines.failed
        self.totals.wrong_use += lines.wrong_use
        self.held[index] = lines
        while (due := self.held.pop(self.next, None)) is not None:
            self.next += 1
            for warning in due.warnings:
                self.reporter.error(warning)
            if due.result:
                self.reporter.result(due.result)
            if due.error:
                self.reporter.error(due.error)


def convert(plan: Plan, task: Task, options: OutputOptions, *, label: str, skip_larger: bool = False) -> None:
    """Run a task for each job, write the results, and print a line for each.

    The lines have the order of the jobs. A failed file is reported and the remaining files are processed. The exit
    status is then 1, or 2 if all failures are due to the options. A result with a part lost is written, and counts as
    failed. skip_larger: results that are larger than their input are not written.
    """
    if options.dry_run:
        plan = Plan(plan.jobs)
    plan.make_folders()
    jobs, totals = plan.jobs, _Totals(len(plan.jobs))
    settled = {index: lines for index, job in enumerate(jobs) if (lines := _settled(job, options))}
    todo = [index for index in range(len(jobs)) if index not in settled]
    on_stderr = any(job.target == STANDARD_STREAM for job in jobs)
    progress = options.progress and not options.dry_run
    with reporting(len(todo), label=label, quiet=options.quiet, progress=progress, on_stderr=on_stderr) as reporter:
        printer = _Printer(reporter, totals)
        for index, lines in settled.items():
            totals.skipped += not lines.failed
            printer.put(index, lines)
        if todo and not options.dry_run:
            sources = [jobs[index].source for index in todo]
            with closing(_outcomes(task, sources, options, reporter)) as outcomes:
                for position, outcome in outcomes:
                    index = todo[position]
                    printer.put(index, _stored(jobs[index], outcome, options, totals, skip_larger))
                    reporter.step()
    if len(jobs) > 1 and totals.failed and reporter.quiet:
        reporter.error(totals.failures)
    elif len(jobs) > 1 and not options.dry_run and not reporter.quiet:
        reporter.error(totals.summary(reporter.seconds))
    if totals.failed or reporter.failed:
        raise click.exceptions.Exit(2 if 0 < totals.failed == totals.wrong_use else 1)


def _settled(job: Job, options: OutputOptions) -> _Lines | None:
    """Return the lines of a job that needs no work.

    Its output exists, or nothing is to be written.
    """
    target = display_name(job.target)
    if options.skip_existing and os.path.lexists(job.target):
        return _Lines(f"{target}: exists, skipped")
    try:
        refuse_existing(job.target, force=options.force)
    except Exception as error:
        return _Lines(error=explain(error, job.source), failed=True)
    if options.dry_run:
        return _Lines(f"{display_name(job.source, stream='standard input')} -> {target}")
    return None


def _outcomes(
    task: Task, sources: list[str], options: OutputOptions, reporter: Reporter
) -> Generator[tuple[int, Outcome]]:
    threads = options.threads if options.workers is None else options.threads or 1
    count = min(options.workers or 1, len(sources))
    if count == 1:
        return workers.here(task, sources, threads)
    return workers.in_processes(task, sources, count, threads or 1, reporter.idle)


def _stored(job: Job, outcome: Outcome, options: OutputOptions, totals: _Totals, skip_larger: bool) -> _Lines:
    """Write a result and return its lines."""
    result = outcome.result
    if result is None:
        return _Lines(error=outcome.error, failed=True, wrong_use=outcome.wrong_use, warnings=outcome.warnings)
    line = f"{display_name(job.target)}: {result.line}"
    if skip_larger and result.larger:
        totals.skipped += 1
        return _Lines(f"{line}, larger than its input, not written", warnings=outcome.warnings)
    try:
        write_bytes(job.target, result.data, force=options.force)
        if options.keep_times and STANDARD_STREAM not in (job.source, job.target):
            times = os.stat(job.source)
            os.utime(job.target, ns=(times.st_atime_ns, times.st_mtime_ns))
    except Exception as error:
        wrong_use = isinstance(error, OptionError)
        return _Lines(error=explain(error, job.source), failed=True, wrong_use=wrong_use, warnings=outcome.warnings)
    totals.add(result)
    return _Lines(line, failed=result.incomplete, warnings=outcome.warnings)
