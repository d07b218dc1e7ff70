"""Training end to end on small images: runs, resumption, and what a user gets wrong."""

import json
import resource
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from ml_collections import ConfigDict
from PIL import Image

from configs import student, teacher
from lightbsr_jax.data import df2k
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import degradation, kernels
from lightbsr_jax.imaging.files import write_png
from lightbsr_jax.interop import convert
from lightbsr_jax.models import packed
from lightbsr_jax.models.checkpoint import Checkpoints
from lightbsr_jax.models.model import Model
from lightbsr_jax.training import initial, loop, pack
from lightbsr_jax.training.checks import check
from lightbsr_jax.training.config import TrainingConfig
from lightbsr_jax.training.loop import train
from lightbsr_jax.training.setup import make_learner, prepare
from lightbsr_jax.training.updates import AXIS

IMAGES = 6


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(IMAGES):
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)
        write_png(folder / f"{seed}.png", np.asarray(picture))
    return folder


def shrink(config: ConfigDict, images: Path) -> ConfigDict:
    """Two steps in stage 1 and two in stage 2, batch 4, of the smallest network."""
    config.network.groups = config.network.blocks = 1
    config.data.hr = str(images)
    config.data.batch_size = 4
    config.data.lr_crop = 8
    config.schedule.update(
        steps_per_epoch=1, stage1_epochs=2, stage2_epochs=2, warmup_epochs=1
    )
    config.log.every_steps = 1
    config.checkpoint.update(every_steps=1, keep=4)
    return config


def teacher_config(images: Path) -> ConfigDict:
    config = shrink(teacher.get_config("setting2"), images)
    config.contrast.update(crops=2, queue_size=16)
    return config


def student_config(images: Path, teacher_workdir: Path) -> ConfigDict:
    config = shrink(student.get_config("setting2"), images)
    config.distillation.teacher = str(teacher_workdir)
    return config


@pytest.fixture(scope="module")
def teacher_workdir(images, tmp_path_factory) -> Path:
    """A finished run, with validation."""
    workdir = tmp_path_factory.mktemp("teacher") / "new"
    config = teacher_config(images)
    config.validation.update(hr=str(images), every_steps=3, images=1, pictures=1)
    train(config, workdir)
    return workdir


def records(workdir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").open()]


def weights(workdir: Path) -> list[np.ndarray]:
    model = Model.load(workdir)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(model.variables)]


def losses(workdir: Path) -> list[dict[str, float]]:
    ignored = ("steps_per_second", "validation_psnr", "validation_ssim")
    return [
        {name: value for name, value in record.items() if name not in ignored}
        for record in records(workdir)
        if "stage" in record
    ]


def cut_back(workdir: Path, step: int) -> None:
    """As if the run had died after `step`, its later records already written."""
    folders = list((workdir / "checkpoints").iterdir())
    assert str(step) in [folder.name for folder in folders]
    for folder in folders:
        if int(folder.name) > step:
            shutil.rmtree(folder)
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "sta')


def test_run_leaves_metrics_pictures_and_a_model(teacher_workdir) -> None:
    printed = records(teacher_workdir)
    stages = [record["stage"] for record in printed if "stage" in record]
    assert stages == [1, 1, 2, 2]
    assert [record["step"] for record in printed if "validation_psnr" in record] == [
        3,
        4,
    ]
    rates = [record["learning_rate"] for record in printed if "stage" in record]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-4, 1e-6], rel=1e-4)
    assert all(np.isfinite(list(record.values())).all() for record in printed)

    pictures = sorted(path.name for path in (teacher_workdir / "validation").iterdir())
    assert pictures == ["0_0000003.png", "0_0000004.png"]
    assert any((teacher_workdir / "tensorboard").iterdir())
    config = json.loads((teacher_workdir / "config.json").read_text())
    assert config["setting"] == 2

    model = Model.load(teacher_workdir)
    assert (model.role, model.setting, model.scale, model.step) == ("teacher", 2, 4, 4)
    lr = jnp.full((1, 5, 6, 3), 0.5)
    known = degradation.Degradation(kernels.isotropic(jnp.ones(1)), jnp.zeros(1))
    assert model.restore(lr, known).shape == (1, 20, 24, 3)
    with pytest.raises(UserError, match="a teacher needs the true degradation"):
        model.restore(lr)


def test_run_is_packed_without_its_paths(images, teacher_workdir, tmp_path) -> None:
    facts = pack.pack(teacher_workdir, tmp_path / "x.safetensors", half=True)
    printed = pack.markdown(facts)
    assert "| network | teacher, setting 2, x4 |\n| updates | 4 of 4 |" in printed
    assert "| batch | 4 images, LR crops of 8 pixels |" in printed
    content = (tmp_path / "x.safetensors").read_bytes()
    assert b"lr_crop" in content
    assert str(images).encode() not in content
    assert Model.load(tmp_path / "x.safetensors").role == "teacher"


def test_student_goes_on_exactly_where_it_was(
    images, teacher_workdir, tmp_path
) -> None:
    """In stage 1 and in stage 2: the same weights and losses as without a break."""
    config = student_config(images, teacher_workdir)
    train(config, tmp_path / "whole")
    for step in (1, 3):
        broken = tmp_path / f"broken{step}"
        shutil.copytree(tmp_path / "whole", broken)
        cut_back(broken, step)
        train(config, broken)
        for ours, whole in zip(
            weights(broken), weights(tmp_path / "whole"), strict=True
        ):
            np.testing.assert_array_equal(ours, whole)
        assert losses(broken) == losses(tmp_path / "whole")
    basis = Model.load(tmp_path / "whole").basis
    np.testing.assert_array_equal(basis, Model.load(teacher_workdir).basis)


def test_teacher_goes_on_exactly_where_it_was(
    images, teacher_workdir, tmp_path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(teacher_workdir, broken)
    cut_back(broken, 3)
    train(teacher_config(images), broken)  # without validation, which may change
    for ours, whole in zip(weights(broken), weights(teacher_workdir), strict=True):
        np.testing.assert_array_equal(ours, whole)
    assert losses(broken) == losses(teacher_workdir)


def test_finished_run_is_left_alone(images, teacher_workdir, capsys) -> None:
    before = records(teacher_workdir)
    train(teacher_config(images), teacher_workdir)
    assert records(teacher_workdir) == before
    assert "finished at step 4" in capsys.readouterr().out


def test_a_run_gets_more_epochs(images, printed, tmp_path, capsys) -> None:
    """The rate's way is told; a run that has them does not go back."""
    workdir = shutil.copytree(printed, tmp_path / "longer")
    config = teacher_config(images)
    config.schedule.stage2_epochs = 4
    train(config, workdir)
    assert [record["step"] for record in losses(workdir)] == [1, 2, 3, 4, 5, 6]
    # Epoch 3 of 4, of which one is the warm-up: (1 + cos(2 pi / 3)) / 2 = 1/4 of it.
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "extended from 4 to 6 updates: the learning rate was 1e-06" in shown
    assert "continues at 5.07e-05 and ends at 1e-06" in shown
    kept = json.loads((workdir / "config.json").read_text())
    assert kept["schedule"]["stage2_epochs"] == 4
    with pytest.raises(UserError, match="stage2_epochs: was 4, is 2.*--config.init="):
        train(teacher_config(images), workdir)


def test_a_students_teacher_may_change_or_go(
    images, teacher_workdir, printed, tmp_path, capsys, caplog
) -> None:
    """The student goes on with it as it was, and tells if it was not finished."""
    unfinished = shutil.copytree(teacher_workdir, tmp_path / "teacher")
    cut_back(unfinished, 2)
    config = student_config(images, unfinished)
    workdir = tmp_path / "student"
    train(config, workdir)
    assert "is not finished, 2 of 4 updates are made" in " ".join(
        capsys.readouterr().out.split()
    )

    cut_back(workdir, 2)
    shutil.rmtree(unfinished)  # which went on meanwhile
    shutil.copytree(teacher_workdir, unfinished)
    train(config, workdir)
    assert "has changed (it is at step 4): using its copy of step 2" in caplog.text
    cut_back(workdir, 3)
    shutil.rmtree(unfinished)
    train(config, workdir)
    assert "using the copy of the teacher" in caplog.text
    assert Model.load(workdir).step == 4

    config.distillation.teacher = str(teacher_workdir)  # another one, by name
    with pytest.raises(UserError, match="the weights of config.distillation.teacher"):
        train(config, workdir)


def test_checkpoints_are_chosen(teacher_workdir, tmp_path) -> None:
    """By step, and by validation; packed files too."""
    psnr = {
        record["step"]: record["validation_psnr"]
        for record in records(teacher_workdir)
        if "validation_psnr" in record
    }
    best = max(psnr, key=lambda step: psnr[step])
    assert Model.load(f"{teacher_workdir}@best").step == best
    for step in (3, 4):
        model = Model.load(f"{teacher_workdir}@{step}")
        assert model.step == step
        file = tmp_path / f"{step}.safetensors"
        pack.pack(f"{teacher_workdir}@{step}", file, half=False)
        assert Model.load(file).step == step
    at_best = jax.tree.leaves(Model.load(f"{teacher_workdir}@best").variables)
    at_step = jax.tree.leaves(Model.load(f"{teacher_workdir}@{best}").variables)
    for ours, theirs in zip(at_best, at_step, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(UserError, match="no checkpoint of step 9, but of 1, 2, 3, 4"):
        Model.load(f"{teacher_workdir}@9")
    with pytest.raises(UserError, match="--step=newest: expected a number of updates"):
        packed.with_step(str(teacher_workdir), "newest")
    assert packed.with_step(str(teacher_workdir), "3") == f"{teacher_workdir}@3"


def test_workdir_of_another_run_is_refused(images, teacher_workdir, tmp_path) -> None:
    config = teacher_config(images)
    config.seed = 7
    config.schedule.learning_rate = 1e-3
    with pytest.raises(
        UserError,
        match="other values: config.schedule.learning_rate: was 0.0002, is 0.001; "
        "config.seed: was 1, is 7. Use",
    ):
        train(config, teacher_workdir)

    fewer = tmp_path / "fewer"
    shutil.copytree(images, fewer)
    (fewer / "0.png").unlink()
    with pytest.raises(UserError, match="the images of config.data.hr: were"):
        train(teacher_config(fewer), teacher_workdir)


def test_images_may_move(images, teacher_workdir, tmp_path) -> None:
    moved = shutil.copytree(images, tmp_path / "moved")
    train(teacher_config(moved), teacher_workdir)


def telling_step(update, **_):
    """For `degrading_step`: learns nothing, and tells which crops it saw."""

    def step(state, crops, fixed):
        weights = jnp.arange(crops.size).reshape(crops.shape) % 251
        printed = lax.psum(jnp.sum(weights * crops), AXIS)
        return state.replace(step=state.step + 1), {"told": printed}

    return step


@pytest.fixture
def printed(images, tmp_path_factory, monkeypatch) -> Path:
    """The workdir of a run of `telling_step`; the runs that follow are such too."""
    monkeypatch.setattr(loop, "degrading_step", telling_step)
    workdir = tmp_path_factory.getbasetemp() / "told"
    if not workdir.exists():
        train(teacher_config(images), workdir)
    return workdir


def crops_told(workdir: Path) -> list[float]:
    return [record["told"] for record in losses(workdir)]


def test_images_may_be_prepared_and_on_the_device(images, printed, tmp_path) -> None:
    """Even in mid-run: the steps see the same crops as from the folders."""
    assert len(set(crops_told(printed))) == 4
    prepared = tmp_path / "prepared"
    df2k.Df2k(data_dir=prepared, inputs=[images], hold_out=0).download_and_prepare()
    broken = shutil.copytree(printed, tmp_path / "broken")
    cut_back(broken, 1)
    config = teacher_config(images)
    config.data.update(hr=str(prepared), resident=True)
    train(config, broken)
    assert losses(broken) == losses(printed)


def test_schedule_of_so_many_minutes(
    images, printed, tmp_path, monkeypatch, capsys
) -> None:
    """Timed once, before the start; of the steps that were timed nothing stays.

    The type of `auto` is chosen before.
    """
    seconds = iter([1.0, 3.0])  # a step of stage 1, of stage 2
    timed = loop.seconds_per_step
    monkeypatch.setattr(
        loop, "seconds_per_step", lambda *given: timed(*given) and next(seconds)
    )
    config = teacher_config(images)
    config.minutes = 0.5  # 2 epochs in each stage: 3 steps an epoch take 24 seconds
    config.compute.dtype = "auto"
    train(config, tmp_path / "run")
    # It takes minutes on a busy machine, before the run's first line.
    said = capsys.readouterr().out
    assert said.startswith("compiling and timing steps, for config.minutes\n")
    whole = losses(tmp_path / "run")
    assert [record["step"] for record in whole] == list(range(1, 13))
    assert crops_told(tmp_path / "run")[:4] == crops_told(printed)
    stored = json.loads((tmp_path / "run/config.json").read_bytes())
    assert stored["compute"]["dtype"] == "float32"
    cut_back(tmp_path / "run", 10)
    train(config, tmp_path / "run")
    assert "timing" not in capsys.readouterr().out
    assert losses(tmp_path / "run") == whole


def test_teacher_of_another_kind_is_refused(images, teacher_workdir, tmp_path) -> None:
    config = student_config(images, teacher_workdir)
    config.setting, config.scale, config.network.blocks = 1, 2, 3
    with pytest.raises(
        UserError,
        match="setting is 2, not 1; scale is 4, not 2; network.blocks is 1, not 3",
    ):
        train(config, tmp_path / "student")
    config = student_config(images, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere holds no checkpoints"):
        train(config, tmp_path / "student")


def test_unreadable_images_are_skipped_and_named(
    images, teacher_workdir, tmp_path, capsys
) -> None:
    folder = shutil.copytree(images, tmp_path / "images")
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "2.png").write_text("not an image")
    write_png(folder / "small.png", np.zeros((31, 40, 3), np.uint8))
    train(student_config(folder, teacher_workdir), tmp_path / "student")
    printed = capsys.readouterr().out
    for name in ("1.png", "2.png", "small.png"):
        assert f"not used: {folder / name}" in printed
    assert "3 images in" in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"setting": 3}, "config: setting 3 is unknown .*: use one of 1, 2, "),
        ({"scale": 5}, "config: scale 5 is unknown .*: use one of 2, 3, 4"),
        ({"data.hr": ""}, "config.data.hr names no HR images: --config.data.hr="),
        ({"data.batch_size": 6}, "batch_size 6 is not a multiple of the 4 devices"),
        (
            {"contrast.queue_size": 18},
            "queue_size 18 is not a multiple of the global batch size 4: use 16",
        ),
        ({"contrast.queue_size": 0}, "queue_size 0 is not a multiple .* use 4"),
        ({"contrast.crops": 1}, "contrast.crops 1: a contrast needs at least 2"),
        ({"seed": -1}, "seed -1 is too small: at least 0"),
        ({"seed": 2**31}, "seed 2147483648 is too large: at most 2147483647"),
        ({"degradation.width_max": 0.2}, "width_max 0.2 must be above 0.2"),
        ({"degradation.width_max": float("inf")}, "width_max inf is not finite"),
        ({"adam.eps": 0.0}, "adam.eps 0.0 must be above 0 and finite"),
        ({"adam.eps": -1e-8}, "adam.eps -1e-08 must be above 0"),
        ({"adam.eps": float("nan")}, "adam.eps nan must be above 0"),
        ({"adam.b1": 1.5}, r"adam.b1 1.5 is not in \[0, 1\)"),
        ({"adam.b1": -0.1}, r"adam.b1 -0.1 is not in \[0, 1\)"),
        ({"adam.b2": 1.0}, r"adam.b2 1.0 is not in \[0, 1\)"),
        ({"contrast.momentum": 1.1}, r"contrast.momentum 1.1 is not in \[0, 1\)"),
        ({"contrast.temperature": 0.0}, "contrast.temperature 0.0 must be above 0"),
        ({"schedule.warmup_epochs": 2}, "warmup_epochs 2 is not below"),
        ({"schedule.stage2_epochs": 0}, "stage2_epochs 0"),
        ({"data.lr_crop": 2}, "data.lr_crop 2"),
        ({"network.groups": 0}, "network.groups 0 is too small: at least 1"),
        ({"log.every_steps": 0}, "log.every_steps 0 is too small: at least 1"),
        ({"compute.parts": 3}, "parts 3 does not divide a device's share .* 1 images"),
        ({"compute.parts": 0}, "compute.parts 0 is too small: at least 1"),
        ({"compute.dtype": "half"}, "'half' is not one of float32, bfloat16, auto"),
        ({"minutes": -1.0}, "minutes -1.0 is too small: at least 0"),
        ({"minutes": float("nan")}, "minutes nan is too small: at least 0"),
        ({"minutes": float("inf")}, "minutes inf is not finite"),
        (
            {"schedule.learning_rate": -1e-3},
            "schedule.learning_rate -0.001 is too small: at least 0",
        ),
        ({"ema_decay": 1.0}, r"ema_decay 1.0 is not in \[0, 1\)"),
        ({"skipped_in_a_row": 0}, "skipped_in_a_row 0 is too small: at least 1"),
        (
            {"schedule.stage1_epochs": -1},
            "schedule.stage1_epochs -1 is too small",
        ),
        ({"validation.images": 0}, "validation.images 0 is too small: at least 1"),
        ({"data.threads": -1}, "data.threads -1 is too small: at least 0"),
        ({"contrast.enabled": False}, "stage1_epochs 2: without contrastive"),
    ],
)
def test_config_that_cannot_be_trained(change, message, images) -> None:
    config = teacher_config(images)
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        check(TrainingConfig.from_flags(config))


def test_student_without_a_teacher(images) -> None:
    config = student_config(images, Path(""))
    config.distillation.teacher = ""
    with pytest.raises(UserError, match="distillation.teacher names no teacher"):
        check(TrainingConfig.from_flags(config))


def test_a_student_with_a_teacher_does_not_start_bicubic(images) -> None:
    config = student_config(images, Path("teacher"))
    config.start = "bicubic"
    with pytest.raises(
        UserError, match="config.start 'bicubic' has no effect, .*leave"
    ):
        check(TrainingConfig.from_flags(config))


def test_folder_without_images(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no image: expected files ending"):
        train(teacher_config(tmp_path / "empty"), tmp_path / "workdir")


@pytest.mark.parametrize(
    ("folder", "message"), [("empty", "empty holds no image"), ("gone", "gone")]
)
def test_validation_images_are_found_before_steps_are_timed(
    folder, message, images, tmp_path, monkeypatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(loop, "fitting_steps_per_epoch", lambda *_: pytest.fail("late"))
    config = teacher_config(images)
    config.minutes = 0.5
    config.validation.hr = str(tmp_path / folder)
    with pytest.raises((UserError, FileNotFoundError), match=message):
        train(config, tmp_path / "workdir")
    assert not (tmp_path / "workdir" / "config.json").exists()


def test_run_that_is_lost_stops(images, tmp_path, monkeypatch) -> None:
    """From step 4 on the loss is not a number."""

    def losing_step(update, **_):
        def step(state, crops, fixed):
            loss = jnp.where(state.step < 3, 1.0, jnp.nan)
            return state.replace(step=state.step + 1), {"loss": loss}

        return step

    monkeypatch.setattr(loop, "degrading_step", losing_step)
    config = teacher_config(images)
    config.schedule.stage2_epochs = 8
    config.skipped_in_a_row = 2
    with pytest.raises(UserError, match="up to step 5, were not finite"):
        train(config, tmp_path / "lost")
    printed = records(tmp_path / "lost")
    assert [record["skipped"] for record in printed[:3]] == [0, 0, 0]
    assert printed[-1]["skipped"] > 0
    assert Model.load(tmp_path / "lost").step == 3  # the last one that was made


@pytest.mark.parametrize("finite", [0, 1])
def test_run_without_any_update_is_lost(
    finite: int, images, tmp_path, monkeypatch
) -> None:
    """Though it is shorter than the number of skipped updates that stops a run."""

    def losing_step(update, **_):
        def step(state, crops, fixed):
            loss = jnp.where(state.step < finite, 1.0, jnp.nan)
            return state.replace(step=state.step + 1), {"loss": loss}

        return step

    monkeypatch.setattr(loop, "degrading_step", losing_step)
    config = teacher_config(images)
    if finite:
        train(config, tmp_path / "run")
        return
    with pytest.raises(UserError, match="last 4 updates, up to step 4, were not fin"):
        train(config, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="no finished checkpoint"):
        Model.load(tmp_path / "run")


def test_validation_that_fails_loses_nothing(images, printed, monkeypatch) -> None:
    """The last step's checkpoint is there before."""

    def fail(*_) -> None:
        raise MemoryError

    monkeypatch.setattr(loop, "validation", lambda *_: fail)
    workdir = printed.with_name("unvalidated")
    with pytest.raises(MemoryError):
        train(teacher_config(images), workdir)
    assert Model.load(workdir).step == 4

    validated = []
    monkeypatch.setattr(
        loop, "validation", lambda *_: lambda step, *_: validated.append(step)
    )
    train(teacher_config(images), workdir)  # has all steps, and wants that still
    assert validated == [4]


def test_workdir_that_cannot_be_written_to(images, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/workdir cannot be written to .Not a dir"):
        train(teacher_config(images), tmp_path / "file" / "workdir")
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="1 MB free, and a checkpoint needs up to"):
        train(teacher_config(images), tmp_path / "workdir")


@pytest.mark.parametrize("field", ["data", "validation"])
def test_pictures_of_a_run_do_not_become_its_images(field, images, tmp_path) -> None:
    """The validation's pictures in WORKDIR would be found when the run is resumed."""
    folder = shutil.copytree(images, tmp_path / "images")
    config = teacher_config(images)
    config.validation.hr = str(images)
    config[field].hr = f"{images},{folder}"
    with pytest.raises(UserError, match=f"run lies in config.{field}.hr={folder}, "):
        train(config, folder / "run")


def test_full_disk_in_mid_run(images, tmp_path, monkeypatch) -> None:
    """The second checkpoint cannot be written: an error, and the first one stays."""
    monkeypatch.setattr(loop, "stop_if_lost", lambda *_: limit_files(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(UserError, match="a checkpoint could not be written"):
            train(teacher_config(images), tmp_path / "workdir")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Model.load(tmp_path / "workdir").step in (1, 2)


def limit_files(folder: Path) -> None:
    """From now on no file may grow beyond 100 kB."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, hard))


def test_workdir_without_a_checkpoint(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no checkpoints"):
        Model.load(tmp_path)
    Checkpoints(tmp_path).close()
    with pytest.raises(FileNotFoundError, match="no finished checkpoint yet"):
        Model.load(tmp_path)


def test_converted_weights_are_not_trained_over(images, teacher_workdir, tmp_path):
    file, basis_file = tmp_path / "t.safetensors", tmp_path / "p.mat"
    convert.to_file(teacher_workdir, file, basis_file=basis_file)
    converted = tmp_path / "converted"
    convert.to_workdir(file, converted, basis_file=basis_file)
    with pytest.raises(UserError, match="converted holds converted weights"):
        train(teacher_config(images), converted)
    assert Model.load(converted).step == 0


def test_a_run_starts_from_given_weights(
    images, teacher_workdir, tmp_path, capsys
) -> None:
    config = shrink(student.get_config("setting2-plain").unlock(), images)
    config.schedule.update(stage1_epochs=0, cooldown_epochs=1)
    config.validation.hr = ""
    # So slow that the weights stay what they were.
    config.schedule.update(learning_rate=0.0, final_learning_rate=0.0)
    given = tmp_path / "given"
    shutil.copytree(teacher_workdir, given)
    config.init = str(given)
    train(config, tmp_path / "run")
    assert (
        f"tensors are taken from {given}, 1 are initialised" in capsys.readouterr().out
    )
    ours = Model.load(tmp_path / "run").variables["params"]
    theirs = Model.load(given).variables["params"]
    same = partial(np.testing.assert_allclose, rtol=1e-6, atol=0)  # an average rounds
    for module in ("restorer", "converter"):
        jax.tree.map(same, ours[module], theirs[module])
    first, second = (x["estimator"]["conv_0"]["kernel"] for x in (ours, theirs))
    assert first.shape != second.shape
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init"]

    facts = pack.pack(tmp_path / "run", tmp_path / "x.safetensors", half=False)
    assert "| started from | given |" in pack.markdown(facts)
    assert str(tmp_path) not in json.dumps(facts.config)

    # A run that goes on needs them no more, nor their name.
    shutil.rmtree(given)
    for name in (str(given), ""):
        config.init = name
        train(config, tmp_path / "run")
    again = pack.pack(tmp_path / "run", tmp_path / "y.safetensors", half=False)
    assert again.config["init"] == "given"


def test_a_teacher_takes_both_branches_and_the_basis(images, teacher_workdir) -> None:
    given = Model.load(teacher_workdir)
    config = teacher_config(images)
    config.seed = 7
    typed = TrainingConfig.from_flags(config)
    network = loop.make_network(typed)
    setup = prepare(typed, network, initial.load(str(teacher_workdir)))
    np.testing.assert_array_equal(setup.basis, given.basis)
    params, stats = given.variables["params"], given.variables["batch_stats"]
    for name, module in setup.state.momentum_params.items():
        jax.tree.map(np.testing.assert_array_equal, module, params[name])
    jax.tree.map(np.testing.assert_array_equal, setup.state.momentum_batch_stats, stats)
    assert not np.array_equal(prepare(typed, network).basis, given.basis)


def test_a_config_chooses_the_pixel_loss() -> None:
    config = student.get_config("setting1-plain").unlock()
    config.pixel_loss = "rmse"
    typed = TrainingConfig.from_flags(config)
    assert make_learner(typed, typed.model.make_network()).pixel_loss == "rmse"


@pytest.mark.parametrize(
    ("field", "value"),
    [("start", "zero"), ("optimizer", "sgd"), ("pixel_loss", "l3"), ("cooldown", 60)],
)
def test_what_a_plain_config_cannot_be(images, field: str, value: object) -> None:
    config = student.get_config("setting1-plain").unlock()
    config.data.hr = str(images)
    config.validation.hr = ""
    check(TrainingConfig.from_flags(config))
    if field == "cooldown":
        config.schedule.cooldown_epochs = value
    else:
        config[field] = value
    with pytest.raises(UserError, match=f"{field}.* {value!r}"):
        check(TrainingConfig.from_flags(config))
