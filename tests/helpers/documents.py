"""The pages of the documentation, their blocks of code and their commands."""

import re
import shlex
from collections.abc import Iterator
from importlib import util
from pathlib import Path

from ml_collections import ConfigDict

from lightbsr_jax import config_files

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "lightbsr_jax" / "weights").glob("*.md"),
    ]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(text: str, language: str) -> list[str]:
    """The contents of a page's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[list[str]]:
    """The words of each command in a shell block."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def shell_commands(text: str) -> Iterator[list[str]]:
    """The words of each command in all shell blocks of a page."""
    for block in blocks(text, "sh"):
        yield from commands(block)


def flags_of(words: list[str]) -> dict[str, str]:
    """The flags --NAME=VALUE among the words of a command, by name."""
    parts = (word.removeprefix("--").partition("=") for word in words)
    return {name: value for name, _, value in parts}


def load_config(value: str) -> ConfigDict:
    """The config that --config=VALUE names."""
    file, _, preset = config_files.locate(value).partition(":")
    module = util.spec_from_file_location("config_of_docs", ROOT / file)
    assert module is not None and module.loader is not None
    loaded = util.module_from_spec(module)
    module.loader.exec_module(loaded)
    return loaded.get_config(preset) if preset else loaded.get_config()
