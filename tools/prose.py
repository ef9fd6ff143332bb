"""Check docstrings, comments, messages and pages for phrases to avoid.

python tools/prose.py [FILE ...]

Without arguments, check the files listed as `only` in pyproject.toml, [tool.prose], or all files of the repository.
Print one line per finding; the exit status is 1 if there is one.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
OWN = frozenset(ROOT / name for name in ("tools/prose.py", "tests/test_prose.py"))  # they quote the phrases
SUFFIXES = frozenset([".py", ".md", ".toml", ".html", ".js", ".css", ".ipynb", ".yml"])
SKIPPED_FOLDERS = frozenset(["build", "demo-output", "dist", "runs"])
SUMMARY_LENGTH = 80  # characters of a docstring's first line
WIDTH = 120  # columns of a page, apart from tables, code and images

# Phrase to avoid, and its replacement. A space matches any white space, also a line break within a comment.
PHRASES = {
    "what (it|this|that|they) (gains?|is|are|says?|takes?|costs?) is": "a sentence with its subject first",
    "what is wrong with": "distortion, or the name of the error",
    "new life": "reinitialise",
    "at most so (long|many|much|far)": "at most N, with a unit",
    "so (many|long) (files|bytes|steps|pixels|pictures|photographs|processes)": "a number or the name of a parameter",
    "what \\w+ \\w+ stands for": "the noun",
    "who (stands|wants|knows|sees|looks)": "the noun",
    "is not where": "falls short of",
    "where there (is|are|was|were)": "if there is",
    "where (none|nothing) (is|does|has)": "if",
    "where (it|they|that) (has|have|does|do|can|cannot)": "if",
    "by and large": "mostly",
    "headers and all": "with its headers",
    "file and all": "with its file",
    "all the same": "nevertheless, or nothing",
    "can(not| not) be had": "is not available",
    "(cannot|not) be meant": "is contradictory",
    "for want of": "without",
    "for ever": "permanently",
    "(go|goes|going|went) on with": "continue",
    "is to be (told|known|shown|done|had)": "a verb in the active voice",
    "(do|does) well to": "should",
    "as long as they (may|are to) be": "the limit",
    "longer than (it|they) may be": "exceeds the limit",
    "(in|take|takes) the place of": "instead of, replace",
    "half[- _]steps?": "quality_index, or increments of 0.5",
    "\\.\\./shared": "a file of the repository, or an argument",
}
PATTERNS = {
    re.compile(r"\b(?:" + phrase.replace(" ", r"[\s#*/]+") + r")\b", re.IGNORECASE)
    if phrase[0].isalpha() or phrase[0] == "("
    else re.compile(phrase): (phrase, instead)
    for phrase, instead in PHRASES.items()
}
QUESTION_WORDS = r"(?:What|Where|Who|Whose|Whoever|Whatever|Wherever|How (?:much|many|long|far))\b"
SENTENCE = re.compile(r"(?:\A|(?<=[.!?])\s|\n\n|\n(?=[-*|#]))[-*|#>\d.\s]*(" + QUESTION_WORDS + r"[^.?!]*[.?!]?)")


COMMENT = re.compile(r"(?:^|\s)(?:#|//|/\*)\s+(" + QUESTION_WORDS + r"[^?\n]*)$", re.MULTILINE)


class Finding(NamedTuple):
    """Place and description of one finding."""

    line: int
    message: str


def findings(text: str, suffix: str) -> Iterator[Finding]:
    """Yield the findings in the text of a file with this suffix, such as `.py`."""
    if suffix == ".ipynb":
        text = "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    for pattern, (phrase, instead) in PATTERNS.items():
        for match in pattern.finditer(text):
            yield Finding(_line(text, match.start()), f"{_one_line(match[0])!r} ({phrase}); write: {instead}")
    if suffix in (".py", ".js", ".css", ".toml", ".yml"):
        for match in COMMENT.finditer(text):
            yield _question_word(_line(text, match.start(1)), match[1])
    if suffix == ".py":
        for line, docstring in docstrings(text):
            yield from _docstring_findings(line, docstring)
    elif suffix == ".md":
        yield from _question_words(text, 1)
        yield from _long_lines(text)


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every docstring of a Python source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield node.body[0].lineno, text


def _docstring_findings(line: int, docstring: str) -> Iterator[Finding]:
    summary = docstring.partition("\n")[0]
    if len(summary) > SUMMARY_LENGTH:
        yield Finding(line, f"the first line has {len(summary)} characters; write at most {SUMMARY_LENGTH}")
    yield from _question_words(docstring, line)


def _question_words(text: str, first_line: int) -> Iterator[Finding]:
    """Yield the sentences, other than questions, that begin with a question word."""
    for match in SENTENCE.finditer(text):
        if not match[1].endswith("?"):
            yield _question_word(first_line + text.count("\n", 0, match.start(1)), match[1])


def _question_word(line: int, sentence: str) -> Finding:
    return Finding(line, f"a sentence begins with {sentence.split()[0]!r}; begin with the subject")


def _long_lines(page: str) -> Iterator[Finding]:
    fenced = False
    for number, line in enumerate(page.split("\n"), start=1):
        fenced ^= line.lstrip().startswith("```")
        wrapped = not fenced and not line.lstrip().startswith(("|", "![", "<!--")) and not line.startswith("    ")
        if wrapped and len(line) > WIDTH:
            yield Finding(number, f"the line has {len(line)} columns; wrap it at {WIDTH}")


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _one_line(text: str) -> str:
    return " ".join(text.split())


def repository_files() -> list[Path]:
    """Return the text files to check."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"].get("prose", {}).get("only", ["**/*"])
    found = {path for pattern in patterns for path in ROOT.glob(pattern)}
    return [path for path in sorted(found - OWN) if _is_text(path)]


def _is_text(path: Path) -> bool:
    folders = path.relative_to(ROOT).parts[:-1]
    skipped = any(name in SKIPPED_FOLDERS or (name.startswith(".") and name != ".github") for name in folders)
    return not skipped and path.suffix in SUFFIXES and path.is_file()


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the given files, or the repository; return the exit status."""
    names = sys.argv[1:] if arguments is None else arguments
    count = 0
    for path in [Path(name).resolve() for name in names] or repository_files():
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        for finding in sorted(findings(path.read_text(encoding="utf-8"), path.suffix)):
            print(f"{shown.as_posix()}:{finding.line}: {finding.message}")
            count += 1
    if count:
        print(f"{count} finding{'s' if count > 1 else ''}; CONTRIBUTING.md describes the style")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
