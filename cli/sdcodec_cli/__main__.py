"""Run the `sdcodec` command: the installed program, and `python -m sdcodec_cli`."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

INTERRUPTED = 130


def run() -> NoReturn:
    """Run the command in a process of its own.

    An interrupted process ends at once: an interruption within a library's C++ code would change the exit status later,
    and one more would print a traceback.
    """
    try:
        from sdcodec_cli.main import main
    except KeyboardInterrupt:
        sys.stderr.write("\nsdcodec: interrupted\n")
        _end()
    try:
        main()
    except KeyboardInterrupt:
        _end()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            _end()
        raise


def _end() -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none
            stream.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    run()
