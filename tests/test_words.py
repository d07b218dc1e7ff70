"""Docstrings say what a thing is or does, in plain words.

They begin with a noun or a verb: "What it holds" and "How it is done" read twice.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("lightbsr_jax", "benchmarks", "configs", "tests")
SOURCES = sorted(
    [*ROOT.glob("*.py"), *(f for x in FOLDERS for f in (ROOT / x).rglob("*.py"))]
)
QUESTIONS = {"what", "where", "how", "whether"}

# Idioms that were mended once: each reads slowly, and has a plain form.
IDIOMS = {
    "passed over": "skipped",
    "by the ends of their names": "name the suffixes",
    "nobody knows": "unknown",
    "is not taken for": "does not count as",
    "does not tell": "does not store, does not show",
    "for want of": "to save, without",
    "nothing stays": "is discarded",
}
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "lightbsr_jax" / "weights").glob("*.md"),
    ]
)


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names of a module, its classes and functions, and their docstrings."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "the module"), text


def questions(source: str) -> list[str]:
    """Names of things whose docstrings begin with a question word."""
    return [
        name
        for name, text in docstrings(ast.parse(source))
        if re.split(r"\W", text, maxsplit=1)[0].lower() in QUESTIONS
    ]


def test_questions_are_found() -> None:
    assert questions('"""What it is."""\ndef f():\n    """How it is done."""') == [
        "the module",
        "f",
    ]
    assert questions('class A:\n    """Where, in words."""') == ["A"]
    assert not questions('"""Whatever."""\ndef f():\n    """Returns whether."""')


def test_docstrings_begin_with_a_noun_or_a_verb() -> None:
    found = {str(x.relative_to(ROOT)): questions(x.read_text()) for x in SOURCES}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize("idiom", IDIOMS)
def test_mended_idioms_do_not_come_back(idiom: str) -> None:
    inner = [path for path in SOURCES if path.parts[-2] != "tests"]
    found = [
        str(path.relative_to(ROOT))
        for path in [*inner, *PAGES]
        if idiom in " ".join(path.read_text().split())
    ]
    assert not found, f"say instead: {IDIOMS[idiom]}"
