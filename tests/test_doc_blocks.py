"""The documentation's shell blocks run, in a folder with small stand-ins for data.

A block's commands run one after the other in a fresh folder, which has everything that
they read: pictures, folders of images, workdirs and state dicts of tiny networks. The
names of the shipped weights stand for a tiny network, too. Commands that train get
further flags that make the network and the schedule tiny. `NOT_RUN` lists the commands
that are not run, with the reason; test_docs.py parses all of them.

All run in this process, since most of a process's time would go into imports; the
programs in processes of their own are in test_run.py and test_processes.py.
"""

import sys
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from helpers.commands import call
from helpers.documents import (
    PAGES,
    ROOT,
    blocks,
    commands,
    flags_of,
    load_config,
)
from helpers.pictures import picture, save
from helpers.reference_weights import reference_tensors
from helpers.reference_weights import save as save_tensors
from helpers.shipped import pack_students

from lightbsr_jax import cli, errors
from lightbsr_jax.imaging import settings
from lightbsr_jax.interop import convert
from lightbsr_jax.models import packed, torch_files

GAN = "needs large files; test_adversary.py trains a tiny network with a GAN loss"
# The beginnings of commands that are not run.
NOT_RUN = {
    "pip install": "needs the network",
    "git clone": "needs the network",
    "make demo": "takes ten minutes",
    "make check": "runs the tests",
    "make page": "needs Node.js and the network; test_parts.py builds the page",
    "make test": "runs the tests",
    "lightbsr video": "needs PyAV and a clip; test_video.py runs it",
    "lightbsr serve": "runs until Ctrl-C; test_server.py asks it for its pages",
    "lightbsr compare": "needs a checkout of the reference; test_compare.py has none",
    "python train.py ...": "stands for any flags",
    "srun": "needs a SLURM cluster",
    "python train.py --distributed": "needs a TPU pod",
    "python train.py --coordinator_address": "test_processes.py starts two processes",
    "python train.py --config=configs/kdsr_student.py:real-gan": GAN,
    "python train.py --config=configs/student.py:photo-gan": GAN,
    "python train.py --config=configs/student.py:photo-detail": GAN,
    "python eval.py --config=configs/benchmark.py:given --workdir=runs/kdsr_gan": GAN,
    "python -m benchmarks.ahead": "needs compilers of accelerators",
    "python -m benchmarks.speed": "measures for minutes, on a quiet machine",
    "python -m benchmarks.runtimes": "needs other runtimes, and minutes",
    "python -m benchmarks.realworld": "needs a checkout of KDSR and BasicSR",
    "python -m benchmarks.recipes": "trains the full network for minutes",
}
# Commands that take seconds; with one that is not in here, a block is slow.
QUICK = ("lightbsr convert", "lightbsr psnr", "lightbsr pack")

# Flags that make a training tiny, for the fields that its config has.
TINY = {
    "optimizer": "adam",  # Muon takes longer to compile; test_loop.py trains with it
    "network.groups": 1,
    "network.blocks": 1,
    "network.residual_blocks": 1,
    "contrast.queue_size": 8,
    "data.batch_size": 4,  # one for each device
    "data.lr_crop": 8,
    "data.threads": 0,
    "schedule.steps_per_epoch": 1,
    "schedule.stage1_epochs": 1,
    "schedule.stage2_epochs": 1,
    "schedule.warmup_epochs": 0,
    "schedule.cooldown_epochs": 1,
    "validation.hr": "",
}


def distinct_blocks() -> list[tuple[str, list[list[str]]]]:
    """Pages and commands of shell blocks, without blocks that are part of another."""
    pages = [page for page in PAGES if page.name != "CONTRIBUTING.md"]
    found = [
        (page.name, commands(block))
        for page in pages
        for block in blocks(page.read_text(), "sh")
    ]
    return [
        (page, block)
        for i, (page, block) in enumerate(found)
        if not any(
            block != other and all(words in other for words in block)
            for _, other in found
        )
        and block not in [other for _, other in found[:i]]
    ]


def is_run(words: list[str]) -> bool:
    line = " ".join(words)
    return not line.startswith(tuple(NOT_RUN))


def is_quick(words: list[str]) -> bool:
    return " ".join(words).startswith(QUICK)


def parameters() -> list:
    """A parameter for each block with a command to run; slow ones are marked."""
    found = []
    for page, block in distinct_blocks():
        wanted = list(filter(is_run, block))
        if wanted:
            quick = all(map(is_quick, wanted))
            marks = [] if quick else [pytest.mark.slow]
            name = f"{page}: {' '.join(wanted[0][:3])}"
            found.append(pytest.param(wanted, id=name, marks=marks))
    return found


def images(
    folder: Path, count: int, height: int = 48, width: int = 52, first: int = 0
) -> None:
    for number in range(first, first + count):
        save(folder / f"{number}.png", picture(number, height, width))


def tiny(channels: int | None) -> dict[str, np.ndarray]:
    """A LightBSR of one block: a student, or a teacher with so many prior channels."""
    return reference_tensors(channels=channels)


def workdir(folder: Path, channels: int | None, setting: settings.Name) -> None:
    """A workdir with a tiny network, as `lightbsr convert` makes it."""
    state = save_tensors(folder.with_suffix(".safetensors"), tiny(channels))
    basis = None
    if channels is not None:
        basis = folder.with_suffix(".mat")
        save_basis(basis)
    convert.to_workdir(state, folder, basis_file=basis, setting=setting)


def save_basis(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    basis = np.random.default_rng(0).standard_normal((441, 15))
    scipy.io.savemat(path, {"p": basis}, appendmat=False)


def state_dict(path: Path, channels: int | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch_files.write(path, tiny(channels))


STAND_INS: dict[str, Callable[[Path], None]] = {
    "photo.jpg": lambda path: save(path, picture(1)),
    "a.tif": lambda path: save(path, picture(2)),
    "b.png": lambda path: save(path, picture(3)),
    "holidays": lambda path: images(path, 2, 24, 28),
    "FOLDER": lambda path: images(path, 2, 64, 68),
    "pairs/HR": lambda path: images(path, 4, 64, 80),
    "pairs/LR": lambda path: images(path, 4, 16, 20),
    "DIV2K_train_HR": lambda path: images(path, 6, 64, 68, first=800),
    "Flickr2K_HR": lambda path: images(path / "more", 6, 64, 68),
    **{
        f"data/{name}": lambda path: images(path / "HR", 1)
        for name in ("Set5", "Set14", "B100", "Urban100")
    },
    "sr": lambda path: images(path, 1),
    "runs/demo/student": lambda path: workdir(path, None, 1),
    "runs/student1": lambda path: workdir(path, None, 1),
    "runs/student2": lambda path: workdir(path, None, 2),
    "runs/teacher1": lambda path: workdir(path, 15, 1),
    "runs/teacher2": lambda path: workdir(path, 18, 2),
    "runs/m4": lambda path: workdir(path, 15, 1),
    "teacher/PCA_matrix.mat": save_basis,
    "teacher/model_700.pt": lambda path: state_dict(path, 15),
    "student/model_700.pt": lambda path: state_dict(path, None),
    "model_600.pt": lambda path: state_dict(path, None),
    "model_600.pth": lambda path: state_dict(path, None),
}


SHIPPED = {"setting1": 1, "setting2": 2, "photo": "photo"}


def provide(folder: Path, block: list[list[str]]) -> None:
    """Makes in `folder` what the commands of a block read and none of them writes."""
    text = " ".join(" ".join(words) for words in block)
    written = {
        word.partition("=")[2]
        for words in block
        for word in words
        if is_training(words) and word.startswith("--workdir=")
    }
    made = {words[3] for words in block if words[:2] == ["lightbsr", "convert"]}
    for name, make in STAND_INS.items():
        root = "--config.root=data" in text and name.startswith("data/")
        if (name in text or root) and name not in written | made:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            make(folder / name)
    (folder / "configs").symlink_to(ROOT / "configs")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny networks under the names of those that come with the package."""
    folder = tmp_path_factory.mktemp("shipped")
    pack_students(folder, SHIPPED)
    return folder


def is_training(words: list[str]) -> bool:
    return words[:2] in (["python", "train.py"], ["lightbsr", "train"])


def tiny_flags(words: list[str]) -> list[str]:
    """The flags that make a training tiny, of fields that its config has."""
    given = flags_of(words)
    config = load_config(given["config"]).to_dict()
    flags = []
    for field, value in TINY.items():
        *group, name = field.split(".")
        fields = config.get(group[0], {}) if group else config
        if fields.get(name) and f"config.{field}" not in given:
            flags.append(f"--config.{field}={value}")
    if "config.minutes" in given:
        flags.append("--config.minutes=0.01")
    return flags


def run(words: list[str]) -> None:
    if is_training(words):
        words = [*words, *tiny_flags(words[2:])]
    if words[:1] == ["python"]:
        words = ["lightbsr", words[1].removesuffix(".py"), *words[2:]]
    call(*words[1:])


@pytest.mark.parametrize("block", parameters())
def test_shell_block_runs(
    block: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if any(word.endswith((".pt", ".pth")) for words in block for word in words):
        pytest.importorskip("torch")
    provide(tmp_path, block)
    monkeypatch.chdir(tmp_path)
    if not all(map(is_quick, block)):
        monkeypatch.setattr(packed, "FOLDER", request.getfixturevalue("shipped"))
    for words in block:
        run(words)


@cache
def all_commands() -> list[str]:
    return [
        " ".join(words)
        for page in PAGES
        for block in blocks(page.read_text(), "sh")
        for words in commands(block)
    ]


@pytest.mark.parametrize("beginning", NOT_RUN)
def test_commands_that_are_not_run_are_documented(beginning: str) -> None:
    assert any(line.startswith(beginning) for line in all_commands())


def python_blocks(heading: str) -> list[str]:
    """The Python blocks of a section of CONTRIBUTING.md, which stand in a list."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return blocks(textwrap.dedent(section.replace("\n   ", "\n")), "python")


def test_recipe_for_a_subcommand(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command of CONTRIBUTING.md, entered and called."""
    source, test = python_blocks("Add a subcommand")
    module = type(sys)("lightbsr_jax.commands.bicubic")
    exec(source, module.__dict__)
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, module))
    save(tmp_path / "a.png", np.full((5, 7, 3), 100, np.uint8))
    cli.main(["bicubic", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--scale=2"])
    assert capsys.readouterr().out == f"{tmp_path / 'b.png'}: 14 x 10 pixels\n"
    with pytest.raises(errors.UserError, match="give 1 or more"):
        module.enlarge(str(tmp_path / "a.png"), "b.png", 0)
    compile(test, "tests/test_bicubic.py", "exec")


def test_recipe_for_a_degradation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting of CONTRIBUTING.md, entered and looked up."""
    function, entry = python_blocks("Add a degradation")
    names = dict(vars(settings))
    exec(function, names)
    entries = eval("{" + entry + "}", names)
    monkeypatch.setattr(settings, "SETTINGS", {**settings.SETTINGS, **entries})
    made = settings.of(3)
    labels = [case.label for case in made.cases(**made.tested)]
    assert len(labels) == 4 and len(set(labels)) == 4
    assert settings.parse("3") == 3
