"""The documentation is true: its links lead somewhere, its commands and code exist.

Commands are not run here but parsed by the program's own parsers; configs are loaded
and the fields that flags name are looked up in them.
"""

import re
import shlex
import tomllib
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers.documents import (
    NAMES,
    PAGES,
    ROOT,
    blocks,
    flags_of,
    load_config,
    shell_commands,
)
from helpers.pictures import picture, save
from ml_collections import ConfigDict

from lightbsr_jax import cli

# Flags of train.py and eval.py beside those of a config.
FLAGS = {
    "train.py": "workdir distributed coordinator_address num_processes process_id",
    "eval.py": "workdir weights step method benchmarks report dump-lr dump-sr lr-dir "
    "lpips distributed",
}


def anchor(heading: str) -> str:
    """The fragment by which GitHub links to a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, fragment = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), f"{page.name} links to {target}"
        if fragment:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert fragment in map(anchor, headings), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_are_ones_that_the_program_takes(page: Path) -> None:
    for words in shell_commands(page.read_text()):
        check_command(words, f"{page.name}: {' '.join(words)}")


def check_command(words: list[str], where: str) -> None:
    """Fails for a command with a program, option or field that there is not."""
    while "=" in words[0]:  # variables of the environment
        words = words[1:]
    if words[0] == "srun":
        words = words[words.index("python") :]
    if words[:3] == ["python", "-m", "lightbsr_jax"]:
        words = ["lightbsr", *words[3:]]
    if words[:2] == ["python", "-m"]:
        found = util.find_spec(words[2])
        assert found, where
        if words[2].startswith("benchmarks."):
            taken = Path(str(found.origin)).read_text()
            flags = [w.partition("=")[0] for w in words[3:] if w.startswith("--")]
            assert all(f'"{flag}"' in taken for flag in flags), where
    elif words[0] == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), where
        check_flags(words[1], words[2:], where)
    elif words[:2] == ["lightbsr", "train"] or words[:2] == ["lightbsr", "eval"]:
        check_flags(f"{words[1]}.py", words[2:], where)
    elif words[0] == "lightbsr":
        check_options(words[1:], where)
    elif words[0] == "make":
        targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.M)
        assert set(words[1:]) <= {*targets, *(w for w in words if "=" in w)}, where
    elif words[:2] == ["pip", "install"]:
        check_extras(words[2:], where)
    else:
        assert words[0] in {".", "git", "cd", "pytest", "mkdir", "docker"}, where


def check_options(words: list[str], where: str) -> None:
    """Fails where the command line's own parser refuses the words."""
    try:
        cli.make_parser().parse_args(words)
    except SystemExit as refused:
        pytest.fail(f"{where}: exit status {refused.code}")


def check_flags(program: str, words: list[str], where: str) -> None:
    """Fails for a flag of train.py or eval.py, or a config's field, that is none."""
    words = [w for w in words if w != "..."]
    given = flags_of(words)
    config = load_config(given.get("config", "benchmark"))
    for name in given:
        field = name.removeprefix("config.")
        if name == "config":
            continue
        if field != name:
            assert has_field(config, field), f"{where}: no field {field}"
        else:
            assert name in FLAGS[program].split(), f"{where}: no flag --{name}"


def has_field(config: ConfigDict, field: str) -> bool:
    return field in {
        ".".join(path) for path in flatten_dict(config.to_dict(), keep_empty_nodes=True)
    }


def check_extras(words: list[str], where: str) -> None:
    """Fails for an extra that pyproject.toml does not have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = {*project["optional-dependencies"], "all"}
    for word in words:
        match = re.fullmatch(r"(?:\.|lightbsr-jax)\[([\w,-]+)\]", word)
        if match:
            assert set(match[1].split(",")) <= known, where


def test_a_wrong_command_is_found() -> None:
    for wrong in (
        "lightbsr upscale a.png --output x --no-such-option",
        "python train.py --config=configs/teacher.py:setting1 --config.data.hs=X",
        "python eval.py --worksdir=X",
        "python -m benchmarks.no_such_module",
        "make nothing",
        "pip install '.[nothing]'",
        "curl x",
    ):
        with pytest.raises(
            (AssertionError, pytest.fail.Exception, ModuleNotFoundError)
        ):
            check_command(shlex.split(wrong), wrong)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.slow
@pytest.mark.parametrize("file", ["README.md", "docs/upscaling.md"])
def test_python_in_the_documentation_runs(file, tmp_path, monkeypatch) -> None:
    """A file's blocks run one after the other, given an `image` and a batch `hr`."""
    save(tmp_path / "photo.jpg", picture(1))
    monkeypatch.chdir(tmp_path)
    hr = np.random.default_rng(0).integers(256, size=(2, 96, 80, 3)).astype(np.float32)
    names = {"image": np.zeros((24, 20, 3), np.uint8), "hr": hr}
    found = blocks((ROOT / file).read_text(), "python")
    assert found
    for block in found:
        exec(block, names)
    assert names["sr"].shape == (96, 80, 3)
    assert names.get("restored", hr).shape == hr.shape
