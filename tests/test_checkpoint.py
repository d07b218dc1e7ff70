"""Checkpoints: what comes back, and what damage and full disks do."""

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.machine import unused_port

from lightbsr_jax.errors import UserError
from lightbsr_jax.models import checkpoint
from lightbsr_jax.models.checkpoint import Checkpoints, opened
from lightbsr_jax.training.state import Run, TrainState

BASIS = np.ones((441, 15), np.float32)


def run_at(step: int, *, averaged: bool = False, size: int = 1000) -> Run:
    """A run of a step, whose numbers are its own."""
    rng = np.random.default_rng(step)

    def numbers() -> np.ndarray:
        return rng.standard_normal(size).astype(np.float32)

    return Run(
        state=TrainState(
            step=np.array(step, np.int32),
            params={"a": {"kernel": numbers()}, "b": numbers()},
            batch_stats={"a": {"mean": numbers()}},
            opt_state={"a": numbers()},
        ),
        average={"a": {"kernel": numbers()}, "b": numbers()} if averaged else None,
        skipped=np.array(2, np.int32),
        skipped_in_a_row=np.array(1, np.int32),
    )


def model_like(about: dict[str, Any]) -> dict[str, Any]:
    state = run_at(0).state
    return {"params": state.params, "batch_stats": state.batch_stats, "basis": BASIS}


def assert_same(ours: Any, expected: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A workdir with checkpoints of the steps 1 to 3, of which two are kept."""
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(workdir, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(run_at(step), BASIS, {"batches": step})
    checkpoints.wait()
    checkpoints.close()
    return workdir


@pytest.fixture
def workdir(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "workdir")


@pytest.fixture
def checkpoints(workdir) -> Iterator[Checkpoints]:
    with opened(workdir) as checkpoints:
        yield checkpoints


def newest(checkpoints: Checkpoints) -> int:
    """The newest whole checkpoint's step; its content is checked."""
    run, basis, about = checkpoints.run(lambda about: (run_at(0), BASIS))
    step = int(run.state.step)
    assert_same((run, basis), (run_at(step), BASIS))
    assert about["batches"] == step
    return step


def test_run_comes_back(checkpoints) -> None:
    assert newest(checkpoints) == 3
    step, about, model = checkpoints.model(model_like)
    assert (step, about["batches"]) == (3, 3)
    assert_same(model["params"], run_at(3).state.params)


@pytest.mark.parametrize("averaged", [False, True])
def test_averaged_parameters_are_the_models(averaged, tmp_path) -> None:
    run = run_at(5, averaged=averaged)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(run, BASIS, {})
    checkpoints.wait()
    _, _, model = checkpoints.model(model_like)
    assert_same(model["params"], run.average if averaged else run.state.params)
    template = run_at(0, averaged=averaged)
    assert_same(checkpoints.run(lambda about: (template, BASIS))[0], run)
    checkpoints.close()


def test_what_is_saved_is_as_it_was(tmp_path) -> None:
    """Arrays and lists that change while they are written."""
    run, about = run_at(4, size=10**6), {"rows": [1]}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(run, BASIS, about)
    run.state.params["b"][:] = 0
    about["rows"].append(object())
    checkpoints.wait()
    template = run_at(0, size=10**6)
    restored, _, restored_about = checkpoints.run(lambda about: (template, BASIS))
    assert_same(restored, run_at(4, size=10**6))
    assert restored_about["rows"] == [1]
    checkpoints.close()


def content_file(folder: Path) -> Path:
    """The file of an item in which its numbers are."""
    if folder.name == "about":
        return folder / "metadata"
    files = (path for path in folder.rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def change_the_place(path: Path) -> None:
    text = path.read_text()
    assert '"batches": 3' in text
    path.write_text(text.replace('"batches": 3', '"batches": 4'))


@pytest.mark.parametrize("item", ["model", "training", "about"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_damaged_checkpoint_is_passed_over(
    item, damage, checkpoints, workdir, caplog
) -> None:
    folder = workdir / "checkpoints" / "3" / item
    path = content_file(folder)
    if damage == "gone":
        shutil.rmtree(folder)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        (change_the_place if item == "about" else flip_a_bit)(path)
    assert newest(checkpoints) == 2
    assert f"{folder.parent} is damaged" in caplog.text
    assert "using the previous one" in caplog.text

    checkpoints.set_aside_after(2)
    assert checkpoints.latest_step() == 2
    assert (workdir / "damaged_checkpoints" / "3.1").is_dir()
    checkpoints.save(run_at(3), BASIS, {"batches": 3})
    checkpoints.wait()
    assert newest(checkpoints) == 3


def test_checkpoints_are_on_the_disk(tmp_path: Path, monkeypatch) -> None:
    """Every file is synced, so that a power cut leaves what was said to be there."""
    synced = set()
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(run_at(1), BASIS, {})
    checkpoints.wait()
    checkpoints.close()
    written = list((tmp_path / "checkpoints").rglob("*"))
    assert len(written) > 10
    assert {path.stat().st_ino for path in written} <= synced


def test_half_written_checkpoint_does_not_count(workdir) -> None:
    folder = workdir / "checkpoints"
    shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp-1234567")
    with opened(workdir) as checkpoints:
        assert newest(checkpoints) == 3


@pytest.mark.parametrize("text", ["[]", '{"commit_timestamp_nsecs": "x"}', '"a"'])
def test_one_that_orbax_cannot_list_is_set_aside(text: str, workdir: Path) -> None:
    """The others, older and newer, can be read."""
    (workdir / "checkpoints" / "2" / "_CHECKPOINT_METADATA").write_text(text)
    with opened(workdir) as checkpoints:
        assert newest(checkpoints) == 3
        assert checkpoints.latest_step() == 3
    assert (workdir / "damaged_checkpoints" / "2.1").is_dir()


def test_one_that_is_deleted_while_others_are_listed(workdir: Path) -> None:
    """A reader of a running training leaves it alone."""

    class Deleted:
        path = workdir / "checkpoints" / "1"

        @property
        def commit_timestamp(self) -> None:
            raise FileNotFoundError(self.path)

    found = Deleted()
    assert checkpoint._is_listed(found)
    found.path.mkdir()
    assert not checkpoint._is_listed(found)


def test_every_nth_is_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1, keep_every=2)
    for step in range(1, 6):
        checkpoints.save(run_at(step), BASIS, {"batches": step})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 4, 5]
    checkpoints.close()


def test_all_damaged(workdir) -> None:
    for step in (2, 3):
        about = workdir / "checkpoints" / str(step) / "about" / "metadata"
        about.write_text(json.dumps({"checksum": 0}))
    with (
        opened(workdir) as checkpoints,
        pytest.raises(
            UserError, match="no checkpoint can be read: .*3 is damaged.*2 i"
        ),
    ):
        newest(checkpoints)


def test_mistakes_are_not_taken_for_damage(checkpoints) -> None:
    def template(about: dict[str, Any]) -> None:
        raise UserError("another run's")

    with pytest.raises(UserError, match="another run's"):
        checkpoints.run(template)


def test_full_disk(checkpoints, workdir) -> None:
    """Files may not grow beyond 64 kB, and the next checkpoint would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(UserError, match=r"not be written.*\n?.*steps \[2, 3\]"):
            checkpoints.save(run_at(4, size=10**6), BASIS, {})
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert newest(checkpoints) == 3
    with opened(workdir) as again:
        assert newest(again) == 3


def test_closing_does_not_hide_another_error(checkpoints, workdir, caplog) -> None:
    """A full disk ends the log first, while a checkpoint is being written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        checkpoints.save(run_at(4, size=10**6), BASIS, {})
        checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "a checkpoint could not be written" in caplog.text
    with opened(workdir) as again:
        assert newest(again) == 3


def test_process_ends_where_checkpoints_cannot_be_written(tmp_path: Path) -> None:
    """Threads that wait for a folder that is not made would hold it for 300 s."""
    program = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        sys.path.append({str(Path(__file__).parent)!r})
        from test_checkpoint import BASIS, run_at
        from lightbsr_jax.models.checkpoint import Checkpoints

        checkpoints = Checkpoints({str(tmp_path)!r})
        folder = Path({str(tmp_path)!r}, "checkpoints")
        folder.rename(folder.with_name("elsewhere"))
        folder.write_text("no folder")
        try:
            checkpoints.save(run_at(1), BASIS, {{}})
            checkpoints.wait()
        finally:
            checkpoints.close()
        """
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        timeout=120,
    )
    assert b"a checkpoint could not be written" in ended.stderr


@pytest.mark.multiprocess
def test_processes_do_not_wait_long_for_one_with_a_full_disk(tmp_path: Path) -> None:
    """The first process cannot write; the second one meets it only when it gives up."""
    program = textwrap.dedent(
        f"""
        import os, resource, sys
        import jax
        sys.path.append({str(Path(__file__).parent)!r})
        from test_checkpoint import BASIS, run_at
        from lightbsr_jax.errors import UserError
        from lightbsr_jax.models import checkpoint

        process = int(sys.argv[1])
        jax.distributed.initialize("localhost:{unused_port()}", 2, process)
        checkpoint._LONGEST = 5
        checkpoints = checkpoint.Checkpoints({str(tmp_path)!r})
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if process == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
        try:
            checkpoints.save(run_at(1, size=10**6), BASIS, {{}})
            checkpoints.wait()
        except UserError as error:
            print(error, flush=True)
            os._exit(2)
        """
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(process)],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        first, _ = (process.communicate(timeout=120)[0] for process in processes)
    finally:
        for process in processes:
            process.kill()
    assert processes[0].returncode == 2 and processes[1].returncode != 0
    assert "a checkpoint could not be written" in first and "OUT_OF_RANGE" in first
