"""The comparison with the reference, replayed without it.

The recording is of our own making, from a tiny network: it tests the replay and that
an error is seen, not that the two programs agree: `lightbsr compare --reference` does.
"""

import jax
import numpy as np
import pytest

from lightbsr_jax.errors import UserError
from lightbsr_jax.interop import case as cases
from lightbsr_jax.interop import compare, ours
from lightbsr_jax.networks import adaptation


@pytest.fixture(scope="module")
def case() -> cases.Case:
    return cases.make(
        scale=2,
        setting=2,
        network={"groups": 1, "blocks": 1},
        queue_size=8,
        size=(8, 8),
        batch=2,
        crops=2,
    )


@pytest.fixture(scope="module")
def recording(case, tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "own.npz"
    cases.save(path, case, results(case))
    return path


def results(case: cases.Case) -> cases.Arrays:
    """What needs no gradient, which would take long to compile."""
    return ours.degradations(case) | ours.distillation(case) | ours.evaluation(case)


def verdicts(rows: list[compare.Row]) -> set[str]:
    return {row.verdict for row in rows}


def test_recording_replays(case, recording) -> None:
    loaded, theirs = cases.load(recording)
    assert (loaded.scale, loaded.setting) == (2, 2)
    assert loaded.network == case.network
    for name, array in case.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)
    rows = compare.table(results(loaded), theirs, partial=True)
    assert rows and verdicts(rows) == {"ok"}
    assert "kernels, isotropic" in compare.format_table(rows)


def test_planted_error_turns_red(case, recording, monkeypatch) -> None:
    _, theirs = cases.load(recording)
    approximate = lambda x: jax.nn.gelu(x, approximate=True)  # noqa: E731
    monkeypatch.setattr(adaptation, "gelu", approximate)
    jax.clear_caches()
    rows = compare.table(results(case), theirs, partial=True)
    jax.clear_caches()
    assert verdicts(rows) > {"ok"}  # the kernels, for one, are as before


def test_another_file_is_refused(tmp_path) -> None:
    np.savez(tmp_path / "other.npz", numbers=np.zeros(3))
    with pytest.raises(UserError, match="not a recording"):
        cases.load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        cases.load(tmp_path / "nowhere.npz")


def test_checkout_that_is_none_is_refused(case, tmp_path) -> None:
    with pytest.raises((UserError, FileNotFoundError), match=str(tmp_path)):
        compare.run_reference(tmp_path, case)
