"""Tests of the check of prose: it passes on the repository and finds every kind of phrase."""

from __future__ import annotations

import pytest

import prose


def messages(text: str, suffix: str = ".py") -> list[str]:
    return [finding.message for finding in prose.findings(text, suffix)]


def test_the_repository_passes(capsys):
    assert prose.main([]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("# what it gains is the picture\n", "'what it gains is'"),
        ("x = 1  # a file of at most\n# so long\n", "'at most # so long'"),
        ('raise ValueError("bits, and what is wrong with the picture")\n', "'what is wrong with'"),
        ("DATA = '../shared/data'\n", "'../shared'"),
    ],
)
def test_phrases_are_found_in_comments_and_messages(text, phrase):
    [message] = messages(text)
    assert message.startswith(phrase)


@pytest.mark.parametrize("phrase", prose.PHRASES)
def test_every_phrase_has_a_replacement(phrase):
    assert prose.PHRASES[phrase]


@pytest.mark.parametrize("summary", ["What a level sets.", "Where the files go.", "Read. How much of it is kept."])
def test_docstrings_do_not_begin_sentences_with_question_words(summary):
    [message] = messages(f'def f():\n    """{summary}"""\n')
    assert "a sentence begins with" in message


def test_comments_do_not_begin_with_question_words():
    assert "'What'" in messages("x = 1  # What the file holds\n")[0]
    assert "'Where'" in messages("// Where the pointer is.\n", ".js")[0]
    assert messages("x = 1  # Why not the name? See below.\n") == []


def test_the_first_line_of_a_docstring_has_at_most_80_characters():
    assert messages(f'"""{"x" * 80}"""\n') == []
    assert "81 characters" in messages(f'"""{"x" * 81}"""\n')[0]


def test_pages_may_ask_questions_but_not_state_them():
    assert messages("# Files\n\nWhat is in the folder?\n", ".md") == []
    assert "'What'" in messages("# Files\n\n## What is in the folder\n", ".md")[0]
    assert "'Where'" in messages("- Where it fits, it is stored.\n", ".md")[0]


def test_pages_are_wrapped_except_for_tables_and_code():
    long = "word " * 30
    assert messages(f"{long}\n", ".md") == ["the line has 150 columns; wrap it at 120"]
    assert messages(f"| {long} |\n\n    {long}\n\n```\n{long}\n```\n", ".md") == []


def test_the_line_of_a_finding_is_right():
    text = 'def f():\n    """Read a file.\n\n    What it holds is returned.\n    """\n'
    assert {finding.line for finding in prose.findings(text, ".py")} == {4}


def test_the_exit_status_is_1_for_a_finding(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("By and large it works.\n", encoding="utf-8")
    assert prose.main([str(page)]) == 1
    assert "page.md:1: 'By and large'" in capsys.readouterr().out
