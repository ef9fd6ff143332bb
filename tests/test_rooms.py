"""Rooms of the library: imports between them point one way.

The light ones do without PyTorch.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sdcodec

PACKAGE = Path(sdcodec.__file__).parent
EXEMPT = {"__init__", "__main__"}  # the public names, and the command


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Rooms that a file imports, at its top or in functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sdcodec":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found - {room_of(path)} - EXEMPT


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        if room_of(path) not in EXEMPT:
            rooms.setdefault(room_of(path), set()).update(imported(path))
    return rooms


def test_imports_between_rooms_point_one_way(graph: dict[str, set[str]]) -> None:
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"rooms import each other: {' -> '.join(error.args[1])}")
    assert {"codec", "training"} <= set(order)


def test_nothing_imports_the_codec_or_training(graph: dict[str, set[str]]) -> None:
    assert [room for room, others in graph.items() if others & {"codec", "training"}] == []


@pytest.mark.parametrize(
    "path",
    [
        *PACKAGE.rglob("coding/*.py"),
        *(PACKAGE / f"{name}.py" for name in ("container", "chunk_reader", "constants", "pillow", "pillow_saving")),
    ],
    ids=lambda path: path.name,
)
def test_the_format_and_the_plugin_of_pillow_need_no_networks(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "import torch" not in text and "from torch" not in text


def test_files_are_short_or_say_why() -> None:
    long = [path for path in PACKAGE.rglob("*.py") if len(path.read_text(encoding="utf-8").splitlines()) > 300]
    assert long == []
