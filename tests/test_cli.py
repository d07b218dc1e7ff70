import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
import pytest
import safetensors.numpy
from helpers.crops import truncate
from helpers.reference_weights import reference_tensors

import lightbsr_jax
from lightbsr_jax import compilation
from lightbsr_jax.cli import main, make_parser
from lightbsr_jax.commands import degrade, mistakes, prepare, serve
from lightbsr_jax.evaluation import conventions
from lightbsr_jax.imaging import files
from lightbsr_jax.inference.server import Server
from lightbsr_jax.interop import convert
from lightbsr_jax.models import packed


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("reference") / "model_700.safetensors"
    safetensors.numpy.save_file(reference_tensors(scale=2), file)
    return file


@pytest.fixture(scope="module")
def workdir(student: Path) -> Path:
    main(["convert", str(student), str(student.parent / "run"), "--setting=2"])
    return student.parent / "run"


def test_convert_there_and_back(student, workdir, tmp_path, capsys) -> None:
    again = tmp_path / "again"
    main(["convert", str(student), str(again), "--setting", "2"])
    what = "student of setting 2, x2, 1 groups of 1 blocks"
    assert capsys.readouterr().out == f"{student} -> {again}: {what}\n"
    back = tmp_path / "back.safetensors"
    back.write_text("old")
    main(["convert", str(workdir), str(back), "--overwrite"])
    assert capsys.readouterr().out == f"{workdir} -> {back}: {what}\n"
    ours, theirs = map(safetensors.numpy.load_file, (back, student))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_prepare(tmp_path, capsys, caplog, monkeypatch) -> None:
    def interrupt(path: Path) -> NoReturn:
        raise KeyboardInterrupt

    images, out = tmp_path / "images", tmp_path / "out"
    folder = images / "HR"
    for name in "abcd":
        files.write_png(folder / f"{name}.png", np.zeros((30, 50, 3), np.uint8))
    truncate(folder / "d.png")
    files.write_png(images / "small" / "a.png", np.zeros((9, 9, 3), np.uint8))
    line = f"prepare --input {images} --output {out} --hold-out 1 --tile 20 --stride 15"
    printed = (
        f"{out}/df2k/1.0.0: train: 2 images in 12 tiles, 0 MB; 1 left out\n"
        f"{out}/df2k/1.0.0: validation: 1 images in 6 tiles, 0 MB; 0 left out\n"
    )
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(files, "read_rgb", interrupt)
        main(line.split())
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted: the same command resumes\n"
    assert caplog.text.count(f"{images}: only 4 of 5 images are used") == 1
    main(line.split())
    again = capsys.readouterr().out
    assert again.startswith(
        f"{printed}left out: {folder / 'd.png'}: corrupt or truncated"
    )
    main(line.split())
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "required: COMMAND (lightbsr --help shows how)"),
        ("convrt", "invalid choice: 'convrt'"),
        (
            "upscale a -o {new} --denoise=1",
            "unrecognized arguments: --denoise=1 (lightbsr upscale --help shows how)",
        ),
        ("prepare --input={new}", "arguments are required: --output"),
        ("prepare --input={new} --output={new}", "no such folder or image: "),
        ("prepare --input={new}\x1b[2J --output={new}", r"{new}\x1b[2J"),
        ("prepare --input=a --output={new} --tile=0", "--tile: '0' is not a positive"),
        (
            "prepare --input=a --output={new} --workers=-1",
            "'-1' is not a positive number",
        ),
        (
            "prepare --input=a --output={new} --hold-out=1 --validation=c",
            "not allowed with",
        ),
        (
            "prepare --input=scikit-image --output={new} --stride=481",
            "stride 481 and tile",
        ),
        ("convert {file}", "required: out (lightbsr convert --help shows how)"),
        (
            "convert {file} {new} --setting=3",
            "argument --setting: setting 3 does not exist: use one of 1 (isotropic",
        ),
        ("convert {file} {new}", "is a student, whose weights do not store"),
        ("convert {file} {new} --overwrite", "--overwrite replaces state dicts, not"),
        ("convert {file} {new}.pth", "is a state dict already: "),
        (
            "convert {file} {new}.safetensors --setting=1",
            "--setting is for networks, and {new}.safetensors must then be a folder",
        ),
        ("convert {file} {new}.pth --pca=a.mat", "--pca is for networks, and"),
        ("degrade a -o {new} --seed=4294967296", "--seed=4294967296: expected 0 to"),
        ("degrade scikit-image -o {file}", "is no folder: name a folder"),
        ("degrade a -o=", "argument -o/--output: an empty name: is a variable unset?"),
        ("convert '' {new}.pt", "argument source: an empty name"),
        ("convert {file} '' --setting=1", "argument out: an empty name"),
        ("pack '' {new}.safetensors", "argument workdir: an empty name"),
        ("pack {new} ''", "argument out: an empty name"),
        ("export '' {new}.onnx", "argument weights: an empty name"),
        ("psnr '' {file}", "argument A: an empty name"),
        ("compare --reference=", "argument --reference: an empty name"),
        ("compare --reference={new} --record=", "argument --record: an empty name"),
        ("prepare --input= --output={new}", "argument --input: an empty name"),
        ("prepare --input=a --output=", "argument --output: an empty name"),
        ("prepare --input=a --output={new} --validation=", "--validation: an empty"),
        ("upscale a -o {new} --weights=", "argument --weights: an empty name"),
        ("upscale a -o {new} --workdir=", "argument --workdir: an empty name"),
        ("upscale a -o {new} --idr-from=", "argument --idr-from: an empty name"),
        ("serve --megapixels=nan", "--megapixels=nan: expected a number above 0"),
        ("convert {new} {new}", "No such file or directory"),
        ("convert {workdir} {new}", "the name must end in one of .pt"),
        ("convert {workdir} {new}.pt --setting=1", "--setting is for state dicts"),
        ("convert {workdir}/.. {new}.pt", "holds no checkpoints"),
        ("convert {file} {new} --setting=1 --pca={file}", "cannot be read"),
    ],
)
def test_mistakes_read_as_one_line(
    arguments: str, message: str, student, workdir, tmp_path, capsys
) -> None:
    new = tmp_path / "new"
    line = arguments.format(file=student, workdir=workdir, new=new)
    with pytest.raises(SystemExit) as caught:
        main(shlex.split(line))
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert message.format(new=new) in printed
    assert not list(tmp_path.iterdir())


def test_images_that_cannot_be_degraded_do_not_stop_the_others(
    tmp_path, capsys
) -> None:
    hr, out = tmp_path / "hr", tmp_path / "out"
    for name, height in {"a": 2, "b": 30, "c": 30}.items():
        files.write_png(hr / f"{name}.png", np.zeros((height, 30, 3), np.uint8))
    truncate(hr / "b.png")
    with pytest.raises(SystemExit) as caught:
        main(["degrade", str(hr), "-o", str(out), "--setting=2"])
    assert caught.value.code == 1
    printed = capsys.readouterr()
    first, second = printed.err.splitlines()
    too_small = "an image of 30x2 pixels is too small for scale 4"
    assert first == f"failed: {hr / 'a.png'}: {too_small}"
    assert second.startswith(f"failed: {hr / 'b.png'}: corrupt or truncated")
    summary = "1 image, and the degradations in degradations.json; 2 failed"
    done, last = printed.out.splitlines()
    assert done == f"done: 30x30 -> 7x7 {out / 'c.png'}"
    assert last == f"{out}: {summary}"
    drawn = json.loads((out / "degradations.json").read_text())["images"]
    image = files.read_rgb(hr / "c.png")
    known = degrade.degrade(image, 2, scale=4, seed=0, place=2)[1]
    assert drawn == {"c.png": known}


def test_names_that_are_not_utf_8_are_printed(tmp_path, capsys) -> None:
    skipped = ["a\udcff.png: corrupt"]
    prepare._summarise(SimpleNamespace(prepared_splits=list, skipped=skipped))
    assert capsys.readouterr().out == "left out: a\\xff.png: corrupt\n"
    files.write_png(tmp_path / "a\udcff.png", np.zeros((30, 30, 3), np.uint8))
    main(["psnr", *[str(tmp_path / "a\udcff.png")] * 2])
    assert "a\\xff.png against" in capsys.readouterr().out


def test_the_page_stays_open_if_nobody_reads_its_lines(monkeypatch) -> None:
    """As after `lightbsr serve | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(Server, "prepare", lambda server, make, on_ready: on_ready())
    monkeypatch.setattr(Server, "serve_forever", lambda server: None)
    with os.fdopen(writing, "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        main(["serve", "--port=0"])


def test_the_page_is_announced_where_it_is() -> None:
    assert serve.opened("0.0.0.0", 80) == "http://127.0.0.1:80 is open"
    assert serve.opened("192.168.0.7", 81) == (
        "192.168.0.7:81 is open to a tunnel or a published port 81: the page answers "
        "only as http://127.0.0.1:81"
    )


@pytest.mark.parametrize(
    "line",
    ["upscale x -o y", "serve --port=0", "export x y.onnx", "degrade x -o y"],
)
def test_compiled_programs_are_kept(line: str, monkeypatch) -> None:
    def keep() -> NoReturn:
        raise SystemExit("kept")

    monkeypatch.setattr(compilation, "keep_compiled_programs", keep)
    with pytest.raises(SystemExit, match="kept"):
        main(line.split())


def test_what_pictures_take_is_the_core() -> None:
    """Pinned are the core and two extras, which the core does without."""
    root = Path(__file__).resolve().parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pinned = (root / "requirements.txt").read_text().splitlines()
    named = [*project["dependencies"], *extras["train"], *extras["eval"]]
    pinned, named = (
        {re.split("[>=]=", line)[0] for line in lines if line[:1] != "#"}
        for lines in (pinned, named)
    )
    assert named == pinned
    for extra, modules in mistakes.EXTRAS.items():
        names = {re.split(">=", line)[0].replace("-", "_") for line in extras[extra]}
        other = {"sklearn": "scikit_learn", "skimage": "scikit_image"}
        assert names == {other.get(module, module) for module in modules}

    code = """
import sys
from lightbsr_jax.inference import folder, server
from lightbsr_jax.interop import convert, export
from lightbsr_jax.training import pack
from lightbsr_jax.evaluation import conventions
print(*{name.partition(".")[0] for name in sys.modules})
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "lightbsr_jax" in loaded
    assert not loaded & {m for modules in mistakes.EXTRAS.values() for m in modules}


@pytest.mark.parametrize(
    ("module", "error"),
    [("sklearn.manifold", SystemExit), ("lightbsr_jax.nothing", ModuleNotFoundError)],
)
def test_an_extra_that_is_missing_is_named(module, error, monkeypatch, capsys) -> None:
    def look(*arguments, **options) -> NoReturn:
        raise ModuleNotFoundError(name=module)

    monkeypatch.setattr(conventions, "compare", look)
    with pytest.raises(error):
        main(["psnr", "a.png", "b.png"])
    if error is SystemExit:
        printed = (
            "error: requires sklearn, which is not installed: pip install '.[eval]"
        )
        assert capsys.readouterr().err.startswith(printed)


def test_ctrl_c_is_no_bug(student, monkeypatch, capsys) -> None:
    def interrupt(*arguments, **options) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "to_workdir", interrupt)
    with pytest.raises(SystemExit) as caught:
        main(["convert", str(student), "new", "--setting=1"])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_version(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"lightbsr_jax {lightbsr_jax.__version__}\n"


@pytest.mark.parametrize("name", ["train", "eval"])
def test_help_of_flags(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lightbsr_jax", name, "--help"],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"lightbsr {name} --" in done.stdout
    for flag in ("config", "workdir", "[no]distributed"):
        assert f"  --{flag}:" in done.stdout


def test_help_describes_every_option() -> None:
    kind = argparse._SubParsersAction
    (commands,) = (a for a in make_parser()._actions if isinstance(a, kind))
    for name in commands.choices.keys() - {"train", "eval"}:  # whose flags are absl's
        silent = [
            action.dest
            for action in commands.choices[name]._actions
            if (action.help or "default").startswith("default")
        ]
        assert not silent, name


def test_help_names_the_weights(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["upscale", "--help"])
    printed = capsys.readouterr().out
    assert [name for name in packed.shipped() if name not in printed] == []


def test_module_is_the_command() -> None:
    command = [sys.executable, "-m", "lightbsr_jax", "convert", "--help"]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "usage: lightbsr convert" in done.stdout
