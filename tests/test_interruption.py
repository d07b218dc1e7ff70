"""Signals to stop, locks of workdirs, and what is printed where nobody watches."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightbsr_jax import locks
from lightbsr_jax.errors import UserError
from lightbsr_jax.training import checks, loop
from lightbsr_jax.training.interruption import Interruption
from lightbsr_jax.training.log import RECORDS, Log
from lightbsr_jax.training.validation import picture_names


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT"])
def test_signals_end_a_run_in_good_order(name: str) -> None:
    """SLURM sends SIGUSR1 before the end of a job, a closed terminal SIGHUP."""
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption.noted(1)
        os.kill(os.getpid(), number)
        assert interruption.noted(2)
    assert signal.getsignal(number) == before


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


def test_pictures_of_equal_names_have_files_of_their_own() -> None:
    names = picture_names(["a/x.png", "b/x.png", "y z.png"])
    assert names == ["0-x", "1-x", "y-z"]


def test_lines_that_are_no_records_are_set_aside(tmp_path: Path) -> None:
    """A bad byte, another shape, a line cut off: the run goes on."""
    records = tmp_path / RECORDS
    good = [b'{"step": 1, "loss": 2.0}', b'{"step": 2, "loss": 1.0}']
    bad = [b'{"step": \xff}', b"[]", b'{"loss": 1}', b'{"step": 3, "lo']
    records.write_bytes(b"\n".join([good[0], *bad[:3], good[1], bad[3]]))
    Log(tmp_path, start=1, total=10).close()
    assert records.read_bytes() == good[0] + b"\n"
    assert Path(f"{records}.damaged").read_bytes().splitlines() == bad


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    for text in ("", "[]", '{"schedule": 3}', "\0"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="config.json is damaged"):
            loop._kept_steps_per_epoch(tmp_path / "config.json", SimpleNamespace())


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
