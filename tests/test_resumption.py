"""Parts of resuming: more epochs, a teacher that changes, the best weights."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.pictures import picture, save
from ml_collections import ConfigDict

from configs import kdsr_student, student
from lightbsr_jax import target
from lightbsr_jax.errors import UserError
from lightbsr_jax.models import packed
from lightbsr_jax.models.checkpoint import opened
from lightbsr_jax.models.load import Weights
from lightbsr_jax.spec import ModelSpec
from lightbsr_jax.training import loop, setup
from lightbsr_jax.training.checks import check_resumable
from lightbsr_jax.training.config import TrainingConfig, planned_updates
from lightbsr_jax.training.log import psnr_at
from lightbsr_jax.training.state import Run, TrainState

TEACHER = "runs/teacher"


def config_of(epochs: int, module: Any = student) -> TrainingConfig:
    config = module.get_config("setting1")
    config.data.hr = "images"
    config.distillation.teacher = TEACHER
    config.schedule.steps_per_epoch = 10
    config.schedule.stage1_epochs = 2
    config.schedule.stage2_epochs = epochs
    return TrainingConfig.from_flags(config)


def identity(config: TrainingConfig) -> dict[str, Any]:
    return {"config": dict(config.as_given), "images": "a", "names": [], "teacher": 1}


def test_more_epochs_may_be_asked_for_and_fewer_not(tmp_path: Path) -> None:
    shorter, longer = identity(config_of(10)), identity(config_of(20))
    check_resumable(shorter, longer, tmp_path)
    with pytest.raises(UserError, match="stage2_epochs: was 20, is 10") as error:
        check_resumable(longer, shorter, tmp_path)
    assert f"--config.init={tmp_path}" in str(error.value)


def test_a_resumed_run_keeps_the_type_that_auto_chose(tmp_path, monkeypatch) -> None:
    config = config_of(10)
    monkeypatch.setattr(target, "trains_faster_in_bfloat16", lambda device: True)
    assert loop.chosen_dtype(None, config) == "bfloat16"
    stored = config.with_value("compute", "dtype", "float32").as_given
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert loop.chosen_dtype(tmp_path, config) == "float32"


def test_converted_weights_have_no_type_to_keep(tmp_path, monkeypatch) -> None:
    """A later check refuses to resume them."""
    (tmp_path / "config.json").write_text('{"role": "student"}')
    monkeypatch.setattr(target, "trains_faster_in_bfloat16", lambda device: True)
    auto = config_of(10).with_value("compute", "dtype", "auto")
    assert loop.chosen_dtype(tmp_path, auto) == "bfloat16"


def test_values_without_effect_that_are_no_longer_taken(tmp_path: Path) -> None:
    """Runs of earlier versions with such values are resumed without them."""
    before = identity(config_of(10))
    before["config"] |= {"start": "bicubic"}
    before["config"]["data"] |= {"paired_share": 0.5}
    check_resumable(before, identity(config_of(10)), tmp_path)


def test_what_happens_to_the_rate_is_told() -> None:
    """Half a cosine from 2e-4 to 1e-6, over 5 epochs after 5 of warm-up, then 15."""
    before = dict(config_of(10).as_given)
    assert loop.extension(config_of(10), before, 120) == ""
    # Epoch 11 of 20: 6 of 15 epochs down the longer cosine.
    rate = 1e-6 + (2e-4 - 1e-6) * (1 + np.cos(np.pi * 6 / 15)) / 2
    assert loop.extension(config_of(20), before, 120) == (
        "extended from 120 to 220 updates: the learning rate was 1e-06, continues at "
        f"{rate:.3g} and ends at 1e-06"
    )


def test_a_stepped_rate_goes_on_as_if_it_had_been_longer() -> None:
    before = dict(config_of(10, kdsr_student).as_given)
    told = loop.extension(config_of(20, kdsr_student), before, 120)
    was, continues = (
        told.split(word)[1].split()[0].rstrip(",")
        for word in ("rate was", "continues at")
    )
    assert was == continues


def weights(step: int, number: float) -> Weights:
    spec = ModelSpec.from_config({"role": "teacher", "setting": 1, "scale": 4})
    variables = {"params": {"a": np.full(3, number, np.float32)}, "batch_stats": {}}
    return Weights(spec, variables, np.ones((441, 15), np.float32), step, {})


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Any, Weights]:
    """Readable weights by path; the teacher in the student's workdir is of step 50."""
    found: dict[Any, Weights] = {
        tmp_path / setup.KEPT_TEACHER: weights(50, 0.5)._replace(
            about={"source": TEACHER}
        )
    }
    (tmp_path / setup.KEPT_TEACHER).touch()

    def read(source: Any, **_: Any) -> Weights:
        if source not in found:
            raise UserError(f"{source} is gone")
        return found[source]

    monkeypatch.setattr(setup, "read", read)
    return found


def test_a_teacher_that_went_on_or_is_gone(kept, tmp_path, caplog) -> None:
    config = config_of(10)
    assert setup._teacher(config, TEACHER, tmp_path).step == 50
    assert "runs/teacher is gone: using the copy of the teacher" in caplog.text
    kept[TEACHER] = weights(80, 0.8)
    assert setup._teacher(config, TEACHER, tmp_path).step == 50
    assert "has changed (it is at step 80): using its copy of step 50" in caplog.text
    kept[TEACHER] = weights(50, 0.5)  # the same, wherever it lies
    assert setup._teacher(config, TEACHER, tmp_path).about == {}


def test_a_damaged_copy_of_the_teacher_is_not_needed(kept, tmp_path, caplog) -> None:
    kept[TEACHER] = weights(50, 0.5)
    del kept[tmp_path / setup.KEPT_TEACHER]  # now reading it raises UserError
    assert setup._teacher(config_of(10), TEACHER, tmp_path).step == 50
    assert "using the teacher itself, runs/teacher" in caplog.text


def test_another_teacher_is_not_replaced(kept, tmp_path) -> None:
    """Nor is that of a run that has not begun, whatever lies in its workdir."""
    kept["runs/other"] = weights(80, 0.8)
    assert setup._teacher(config_of(10), "runs/other", tmp_path).step == 80
    with pytest.raises(UserError, match="runs/teacher is gone"):
        setup._teacher(config_of(10), TEACHER, None)


def test_the_teacher_is_kept_once(tmp_path: Path) -> None:
    read = weights(50, 0.5)
    teacher = setup.Teacher(
        TEACHER, read.variables, 1, 50, 244, {"config": {}, "step": 50}, read.basis
    )
    setup.keep_teacher(teacher, tmp_path)
    about, model = packed.read(tmp_path / setup.KEPT_TEACHER)
    assert about["step"] == 50
    np.testing.assert_array_equal(model["params"]["a"], read.variables["params"]["a"])
    later = teacher._replace(about={"config": {}, "step": 80})
    setup.keep_teacher(later, tmp_path, begins=False)
    assert packed.read(tmp_path / setup.KEPT_TEACHER)[0]["step"] == 50


def test_a_new_run_replaces_the_copy_of_an_earlier_start(tmp_path: Path) -> None:
    """It stopped before its first checkpoint, and its teacher was trained on."""
    for step, number in ((50, 0.5), (80, 0.8)):
        read = weights(step, number)
        about = {"config": {}, "step": step}
        teacher = setup.Teacher(
            TEACHER, read.variables, 1, step, 244, about, read.basis
        )
        setup.keep_teacher(teacher, tmp_path)
    about, model = packed.read(tmp_path / setup.KEPT_TEACHER)
    assert about["step"] == 80
    np.testing.assert_array_equal(model["params"]["a"], read.variables["params"]["a"])


def test_updates_of_a_schedule() -> None:
    assert planned_updates(config_of(10).as_given) == 120
    assert planned_updates({}) is None


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    """Those of steps 1 and 3 of five validations, one of which is no number.

    The weights of step 5 could not be written, and those of step 6 are better than 3's.
    """
    job: Any = SimpleNamespace(
        workdir=tmp_path,
        identity=identity(config_of(10)),
        setup=SimpleNamespace(basis=np.ones((441, 15), np.float32)),
    )
    steps = []
    for step, psnr in enumerate([25.0, 24.9, 25.1, float("nan")], 1):
        run: Any = SimpleNamespace(
            evaluated={"a": jnp.full(3, float(step))},
            state=SimpleNamespace(batch_stats={}),
        )
        loop.keep_best(job, run, step, psnr)
        about, model = packed.read(tmp_path / packed.BEST_FILE)
        steps.append((about["step"], float(model["params"]["a"][0])))
        with (tmp_path / "metrics.jsonl").open("a") as file:
            told = None if np.isnan(psnr) else psnr
            file.write(json.dumps({"step": step, "validation_psnr": told}) + "\n")
    assert steps == [(1, 1.0), (1, 1.0), (3, 3.0), (3, 3.0)]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "validation_psnr": 26.0}\n')
    run = SimpleNamespace(
        evaluated={"a": jnp.full(3, 6.0)}, state=SimpleNamespace(batch_stats={})
    )
    for psnr, expected in ((25.0, 3), (25.5, 6)):
        loop.keep_best(job, run, 6, psnr)
        assert packed.read(tmp_path / packed.BEST_FILE)[0]["step"] == expected


def test_best_weights_of_an_earlier_start_are_replaced(tmp_path: Path) -> None:
    """It stopped before its first checkpoint; a damaged file is replaced, too."""
    job: Any = SimpleNamespace(
        workdir=tmp_path,
        identity=identity(config_of(10)),
        setup=SimpleNamespace(basis=np.ones((441, 15), np.float32)),
    )
    file = tmp_path / packed.BEST_FILE
    for number, psnr in enumerate((25.0, 24.0, 23.0)):
        run: Any = SimpleNamespace(
            evaluated={"a": jnp.full(3, float(number))},
            state=SimpleNamespace(batch_stats={}),
        )
        record = {"step": 4, "validation_psnr": psnr}
        (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        loop.keep_best(job, run, 4, psnr)
        assert packed.read(file)[1]["params"]["a"][0] == number
        if number == 1:
            file.write_bytes(file.read_bytes()[:-5])


def test_only_validations_on_the_same_images_are_compared(tmp_path: Path) -> None:
    """A run was resumed with other images, on which bicubic is better."""
    bicubic = [25.0, 25.00001, 29.0, 29.0]
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step, psnr in enumerate(bicubic, 1):
            told = {"validation_psnr": psnr + step, "validation_psnr_bicubic": psnr}
            file.write(json.dumps({"step": step, **told}) + "\n")
            file.write(json.dumps({"step": step, "loss": 1.0}) + "\n")
            if step == 2:
                file.flush()
                assert psnr_at(tmp_path, 1) == 26.0
    assert [psnr_at(tmp_path, step) for step in (1, 2, 3, 5)] == [
        None,
        None,
        32.0,
        None,
    ]


def test_sources_with_a_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    assert packed.at_step(f"{run}@970") == (run, "970")
    assert packed.at_step(f"{run}@best") == (run, "best")
    assert packed.at_step(f"{run}@x") == (Path(f"{run}@x"), None)
    assert packed.check_name(f"{run}@970") == f"{run}@970"
    assert packed.with_step(str(run), "970") == f"{run}@970"
    with pytest.raises(UserError, match="--step=-3: expected a number of updates"):
        packed.with_step(str(run), "-3")
    with pytest.raises(UserError, match="names a step already: leave out --step=3"):
        packed.with_step(f"{run}@best", "3")
    (tmp_path / "run@970").mkdir()  # a folder of that very name goes first
    assert packed.at_step(f"{run}@970") == (Path(f"{run}@970"), None)


@pytest.fixture
def light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConfigDict:
    """A run whose steps compile nothing and learn nothing; batch and network are none.

    Validation is 20 dB and a tenth for each step but the last of ten, which is worse.
    """
    for seed in range(2):
        save(tmp_path / "images" / f"{seed}.png", picture(seed, 300, 300))
    state = TrainState(
        step=np.array(0, np.int32),
        params={"a": np.zeros(3, np.float32)},
        batch_stats={"a": np.zeros(3, np.float32)},
        opt_state={"a": jnp.zeros(3)},
    )
    basis = np.ones((441, 15), np.float32)
    teacher = setup.Teacher(
        *(TEACHER, {"params": {"a": np.ones(1)}}, 1, 50, 244),
        *({"config": {}, "step": 50}, basis),
    )
    prepared = setup.Setup(state, {1: None, 2: None}, basis, teacher)  # type: ignore

    def step(run: Run, batch: Any, constants: Any) -> tuple[Run, dict[str, Any]]:
        number = np.array(run.state.step + 1, np.int32)
        params = {"a": run.state.params["a"] + np.float32(1)}
        state = run.state.replace(step=number, params=params)
        zero = np.array(0, np.int32)
        metrics = {"loss": 1.0, "skipped": zero, "skipped_in_a_row": zero}
        return run.replace(state=state), metrics

    def validate(number: int, *_: Any) -> float:
        psnr = 20 + number / 10 - (1 if number == 10 else 0)
        with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": number, "validation_psnr": psnr}) + "\n")
        return psnr

    batches = SimpleNamespace(
        get_state=lambda: {}, set_state=lambda _: None, close=lambda: None
    )
    kinds: dict[str, Any] = {
        "open_batches": lambda *_: BatchesOfNothing(**vars(batches)),
        "make_network": lambda *_: None,
        "prepare": lambda *_, **__: prepared,
        "make_steps": lambda *_: {1: step, 2: step},
        "constants_on_devices": lambda *_: None,
        "validation": lambda *_: validate,
    }
    for name, value in kinds.items():
        monkeypatch.setattr(loop, name, value)

    def replicate(run: Run) -> Run:
        # Devices would hold the initial state beside the replicated one.
        assert isinstance(run.state.opt_state["a"], np.ndarray)
        return run

    monkeypatch.setattr(loop.parallel, "replicate", replicate)
    monkeypatch.setattr(loop.parallel, "on_first_device", lambda tree: tree)
    config = student.get_config("setting1")
    config.data.hr = str(tmp_path / "images")
    config.distillation.teacher = TEACHER
    config.schedule.update(
        steps_per_epoch=1, stage1_epochs=2, stage2_epochs=8, warmup_epochs=1
    )
    config.log.every_steps = config.checkpoint.every_steps = 1
    config.checkpoint.update(keep=1, keep_every_steps=4)
    config.validation.every_steps = 2
    return config


class BatchesOfNothing(SimpleNamespace):
    def __next__(self) -> None:
        return None


def test_a_whole_run_and_its_extension(
    light, tmp_path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    met = []  # the last record when processes wait for the first one

    def meet() -> None:
        met.append(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]))

    monkeypatch.setattr(loop.parallel, "meet", meet)
    loop.train(light, run)
    assert met == [{"step": 10, "validation_psnr": 20.0}]
    shown = " ".join(capsys.readouterr().out.split())
    assert "after 50 of 244 updates" in shown
    assert "is not finished, 50 of 244 updates are made" in shown
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["10", "4", "8"]
    assert packed.read(run / packed.BEST_FILE)[0]["step"] == 8
    assert packed.read(run / setup.KEPT_TEACHER)[0]["step"] == 50

    light.schedule.stage2_epochs = 12
    loop.train(light, run)
    shown = " ".join(capsys.readouterr().out.split())
    assert "extended from 10 to 14 updates: the learning rate was 1e-06" in shown
    assert "finished at step 14" in shown
    kept = json.loads((run / "config.json").read_text())
    assert kept["schedule"]["stage2_epochs"] == 12
    assert packed.read(run / packed.BEST_FILE)[0]["step"] == 14
    with opened(run) as checkpoints:
        assert checkpoints.steps() == [4, 8, 12, 14]
    light.schedule.stage2_epochs = 8
    with pytest.raises(UserError, match="stage2_epochs: was 12, is 8"):
        loop.train(light, run)


def test_a_lack_of_memory_that_shows_late(
    light, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device may report it where the results of a step are awaited."""

    class Lost:
        def __int__(self) -> int:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    steps = dict.fromkeys((1, 2), lambda run, *_: (run, {"skipped_in_a_row": Lost()}))
    monkeypatch.setattr(loop, "make_steps", lambda *_: steps)
    light.schedule.stage1_epochs = 0
    light.log.every_steps = light.checkpoint.every_steps = 100
    light.validation.every_steps = 100
    with pytest.raises(UserError, match="does not fit into their memory"):
        loop.train(light, tmp_path / "run")
