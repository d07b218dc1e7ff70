"""Signals to stop, locks of workdirs, what processes share, and what is written."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from configs import student
from lightbsr_jax import locks
from lightbsr_jax.errors import UserError
from lightbsr_jax.models import packed
from lightbsr_jax.training import checks, loop, pack, parallel
from lightbsr_jax.training.config import TrainingConfig
from lightbsr_jax.training.interruption import Interruption
from lightbsr_jax.training.log import RECORDS, Log


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT"])
def test_signals_end_a_run_in_good_order(name: str) -> None:
    """SLURM sends SIGUSR1 before the end of a job, a closed terminal SIGHUP."""
    number = getattr(signal, name)
    inherited = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP
    try:
        with Interruption() as interruption:
            assert not interruption.noted(1)
            os.kill(os.getpid(), number)
            assert interruption.noted(2)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, inherited)


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interruption.noted(1)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_folder_in_use_is_refused_and_a_stale_lock_is_not(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from lightbsr_jax import locks\n"
        "with locks.held(Path(sys.argv[1]), Path(sys.argv[2])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(lock), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        owner = f"is in use by process {other.pid} on "
        with pytest.raises(UserError, match=owner), locks.held(lock, tmp_path):
            pass
        other.kill()
    with locks.held(lock, tmp_path):
        assert f"process {os.getpid()} on" in lock.read_text()
    with locks.held(lock, tmp_path):  # free again
        pass


def test_no_bar_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Batch systems set FORCE_COLOR, by which Rich takes a file for a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    log = Log(tmp_path, start=0, total=10, quiet=False)
    log.advance(1)
    time.sleep(0.3)
    log.metrics(2, {"loss": 1.0, "skipped": 0.0}, stage=1)
    log.close()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "step 2/10" in lines[0]


def test_names_that_are_not_utf_8_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    log = Log(tmp_path, start=0, total=10)
    log.say("not used: \udce9.png")
    log.close()
    assert capsys.readouterr().out == "not used: \\xe9.png\n"


def test_lines_that_are_no_records_are_set_aside(tmp_path: Path) -> None:
    """A bad byte, another shape, a line cut off: the run goes on."""
    records = tmp_path / RECORDS
    good = [b'{"step": 1, "loss": 2.0}', b'{"step": 2, "loss": 1.0}']
    bad = [b'{"step": \xff}', b"[]", b'{"loss": 1}', b'{"step": 3, "lo']
    records.write_bytes(b"\n".join([good[0], *bad[:3], good[1], bad[3]]))
    Log(tmp_path, start=1, total=10).close()
    assert records.read_bytes() == good[0] + b"\n"
    assert Path(f"{records}.damaged").read_bytes().splitlines() == bad


def test_a_full_disk_ends_the_log(tmp_path: Path) -> None:
    """TensorBoard's events, the longer file, cannot be written: no endless wait."""
    log = Log(tmp_path, start=0, total=1000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match="log cannot be written .*: free space"):
            for step in range(1, 1000):
                log.metrics(step, {"loss": 1.0, "skipped": 0.0}, stage=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.close()
    assert (tmp_path / RECORDS).stat().st_size < 20_000


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    config: Any = SimpleNamespace(as_given={"compute": {"dtype": "auto"}})
    for text in ("", "[]", '{"compute": 3}', '{"compute": {}}', "\0"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="config.json is damaged"):
            loop.chosen_dtype(tmp_path, config)


def test_changed_images_are_told_by_count_and_name(tmp_path: Path) -> None:
    config = {"config": {}, "teacher": None}
    saved = {**config, "images": "x", "names": ["a.png", "b.png"]}
    checks.check_resumable(saved, saved, tmp_path)
    now = {**config, "images": "y", "names": ["a.png", "c.png", "d.png"]}
    message = "were 2, are 3, without b.png, and new c.png, d.png"
    with pytest.raises(UserError, match=message):
        checks.check_resumable(saved, now, tmp_path)
    with pytest.raises(UserError, match="were 2, are 2, with the same names but other"):
        checks.check_resumable(saved, {**saved, "images": "z"}, tmp_path)
    del saved["names"]
    with pytest.raises(UserError, match="are 3, different from before"):
        checks.check_resumable(saved, now, tmp_path)


@pytest.mark.parametrize(
    ("before", "after"), [("x+p", "x"), ("x", "x+p"), ("x+p", "x+q")]
)
def test_changed_pairs_are_told(before: str, after: str, tmp_path: Path) -> None:
    saved, now = (
        {"config": {}, "teacher": None, "names": ["a.png"], "images": images}
        for images in (before, after)
    )
    with pytest.raises(UserError, match="same, but not their pairs.* config.data.lr"):
        checks.check_resumable(saved, now, tmp_path)


def config_with(**fields: Any) -> dict[str, Any]:
    config = student.get_config("photo-gan")
    flat = {name.replace("__", "."): value for name, value in fields.items()}
    config.update_from_flattened_dict(flat)
    return dict(TrainingConfig.from_flags(config).as_given)


def test_processes_must_share_all_but_places() -> None:
    first, second = (
        checks.common_fields({"images": "x", "config": config_with(**fields)})
        for fields in (
            {"data__hr": "a", "data__lr": "b", "data__threads": 3, "init": "c"},
            {"compute__parts": 2, "checkpoint__every_steps": 7, "validation__hr": "d"},
        )
    )
    assert first.keys() == second.keys()
    different = [name for name in first if first[name] != second[name]]
    assert different == ["config.checkpoint.every_steps", "config.compute.parts"]


def test_what_processes_do_not_share_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    facts, gathered = {"seed": 1, "scale": 4}, iter(())

    def gather(own: np.ndarray) -> np.ndarray:
        return np.stack([own, next(gathered)])

    monkeypatch.setattr(parallel.jax, "process_count", lambda: 2)
    monkeypatch.setattr(parallel.multihost_utils, "process_allgather", gather)

    def check(theirs: dict[str, Any]) -> None:
        nonlocal gathered
        crcs = [parallel.zlib.crc32(repr(x).encode()) for x in theirs.values()]
        gathered = iter([np.int32(len(theirs)), np.array(crcs, np.uint32)])
        parallel.check_same(facts)

    check(facts)
    with pytest.raises(
        UserError, match=r"not the same .*: scale \(4 here\); start all"
    ):
        check({"seed": 1, "scale": 3})
    with pytest.raises(UserError, match="configs of different kinds; start all"):
        check({"seed": 1, "scale": 4, "role": "teacher"})


def test_private_places_are_not_packed(tmp_path: Path) -> None:
    """Neither by `lightbsr pack`, nor in a run's best weights."""
    named = {"__".join(path): f"/private/{path}" for path in pack.PATHS}
    assert {"data__lr", "validation__lr", "validation__hr"} <= named.keys()
    config = config_with(init="/private/given.pth", **named)
    model = {"params": {"a": np.ones(3, np.float32)}, "basis": np.ones(2, np.float32)}
    pack.keep_best(tmp_path, config, 7, model)
    kept = (tmp_path / packed.BEST_FILE).read_bytes()
    about = {"config": config, "step": 7}
    packed.write(tmp_path / packed.BEST_FILE, about, model, half=False)
    pack.pack(f"{tmp_path}@best", tmp_path / "x.safetensors", half=False)
    for content in (kept, (tmp_path / "x.safetensors").read_bytes()):
        assert b"given.pth" in content and b"/private" not in content
    config = packed.read(tmp_path / "x.safetensors")[0]["config"]
    for group, field in pack.PATHS:
        assert config[group][field] == ""
    assert config["data"]["lr_crop"] == 64
