"""Paths among the arguments of commands."""

from pathlib import Path

import pytest

from lightbsr_jax import cli
from lightbsr_jax.commands import paths
from lightbsr_jax.errors import UserError


def test_home_is_expanded_in_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    given = ["--workdir=~/x", "--config.data.hr=~/a,b,~/c", "~/d", "--x=a~b", "a=~/b"]
    assert paths.expanded(given) == [
        "--workdir=/home/ann/x",
        "--config.data.hr=/home/ann/a,b,/home/ann/c",
        "/home/ann/d",
        "--x=a~b",
        "a=~/b",
    ]


@pytest.mark.parametrize("place", ["gs://bucket/run", "S3://bucket/run"])
def test_cloud_storage_is_refused_before_anything_is_made(
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("train", "eval", "upscale"):
        with pytest.raises(SystemExit) as ended:
            cli.main([command, f"--workdir={place}"])
        assert ended.value.code == 2
        assert "cloud storage is not supported" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="not a local path"):
        paths.expanded([place])
