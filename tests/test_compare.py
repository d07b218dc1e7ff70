"""The comparison with the reference, replayed without it.

The recording beside this file is of our own making, from a tiny network: it tests the
replay, and that errors are seen. That the two programs agree is for
`lightbsr compare --reference` to show. To make it anew when what is compared changes:

    PYTHONPATH=. python tests/test_compare.py
"""

import json
import math
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import literal
from helpers.reference_weights import left_behind, reference_tensors, save
from jax import Array
from PIL import Image

from lightbsr_jax.cli import main
from lightbsr_jax.errors import UserError
from lightbsr_jax.methods import estimator, registry
from lightbsr_jax.methods import network as blind
from lightbsr_jax.methods.lightbsr import adaptation
from lightbsr_jax.methods.recipe import Adam
from lightbsr_jax.networks import layers
from lightbsr_jax.parity import case as cases
from lightbsr_jax.parity import compare, ours, report
from lightbsr_jax.parity.case import Arrays, Case
from lightbsr_jax.training import contrast

Part = Callable[[Case], Arrays]
Recording = tuple[Case, Arrays]

RECORDING = Path(__file__).with_name("compare_recording.npz")
KEPT = 32

pytestmark = pytest.mark.usefixtures("highest_precision", "quick_to_compile")


def degradations(case: Case) -> Arrays:
    return ours.degradations(case) | ours.scores(case) | ours.distillation(case)


def evaluation(case: Case) -> Arrays:
    return ours.evaluation(case, "student")


def training(case: Case) -> Arrays:
    return ours.training(case, "teacher")


def step(case: Case) -> Arrays:
    updates = ours.make_updates(case, "student")
    return ours.step(case, "student", updates)


def trace_losses(case: Case) -> Arrays:
    updates = ours.make_updates(case, "teacher")
    return ours.trace_losses(case, "teacher", updates)


def trace_tensors(case: Case) -> Arrays:
    updates = ours.make_updates(case, "teacher", dtype=np.float64, backend="cpu")
    return ours.trace_tensors(case, "teacher", updates)


PARTS = (degradations, evaluation, training, step, trace_losses, trace_tensors)


def results_of(case: Case, parts: Sequence[Part]) -> Arrays:
    """Of each array KEPT numbers and a few more, or all if it has no more."""
    results: Arrays = {}
    for part in parts:
        results |= part(case)
    return {
        name: array.ravel()[:: max(1, array.size // KEPT)]
        for name, array in results.items()
    }


def record() -> None:
    case = cases.make(
        scale=2,
        setting=2,
        network={"groups": 1, "blocks": 1},
        queue_size=8,
        size=(8, 8),
        batch=2,
        crops=2,
        stages=(1, 1),
    )
    cases.save(RECORDING, case, results_of(case, PARTS))


@pytest.fixture(scope="module")
def quick_to_compile() -> Iterator[None]:
    """Compilation is what takes time here, not what is compiled."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return cases.load(RECORDING)


def red(rows: Sequence[compare.Row]) -> set[str]:
    return {row.kind.quantity for row in rows if row.verdict != "ok"}


def test_recording_replays(recording: Recording) -> None:
    case, theirs = recording
    rows = compare.table(results_of(case, PARTS), theirs)
    table = report.table(rows)
    assert not red(rows), table
    assert table.endswith("all 51 agree.")


def swap_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's order of channels in the pixel shuffle."""

    def depth_to_space(x: Array, factor: int) -> Array:
        b, h, w, c = x.shape
        x = x.reshape(b, h, w, factor, factor, c // factor**2)
        return x.swapaxes(2, 3).reshape(b, h * factor, w * factor, -1)

    for module in (blind, estimator):
        monkeypatch.setattr(module, "pixel_shuffle", depth_to_space)


def approximate_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one with tanh, JAX's default."""
    for module in (adaptation, estimator):
        monkeypatch.setattr(module, "gelu", jax.nn.gelu)


def bias_the_running_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    """n / (n - 1) as good as 1."""
    monkeypatch.setattr(layers.BatchNorm, "_devices", lambda self: 1e9)


def pool_the_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch statistics over B x D, not of each crop index."""
    correct = layers.BatchNorm.__call__

    def pooled(self, x: Array, visits: Sequence[int] | None = None) -> Array:
        if visits is None:
            return correct(self, x)
        flat = x.reshape(1, -1, *x.shape[2:])
        return correct(self, flat, (0,) * len(visits)).reshape(x.shape)

    monkeypatch.setattr(layers.BatchNorm, "__call__", pooled)


def feed_the_queue_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys are among the negatives of their own step."""
    correct = contrast.contrastive_loss

    def late(queries: Array, keys: Array, queue: Array, **options: Any) -> Array:
        queue, _ = contrast.enqueue(queue, 0, keys[0])
        return correct(queries, keys, queue, **options)

    monkeypatch.setattr(contrast, "contrastive_loss", late)


RESTORATION = (
    "IDR-converter",
    "IDR-CBs",
    "spatial modulation",
    "channel modulation",
    "blocks",
    "head and groups",
    "upscaler",
    "SR",
)
ESTIMATION = ("estimator", "projector", "momentum branch")


@pytest.mark.parametrize(
    ("plant", "part", "section", "quantities"),
    [
        (swap_channels, evaluation, "student, evaluation", RESTORATION),
        (approximate_gelu, training, "teacher, training", RESTORATION),
        (
            bias_the_running_variance,
            trace_tensors,
            "teacher, trace in float64",
            ["BatchNorm statistics"],
        ),
        (pool_the_crops, training, "teacher, training", ESTIMATION + RESTORATION),
        (feed_the_queue_early, trace_losses, "teacher, trace", ["contrastive loss"]),
    ],
)
def test_planted_error_turns_red(
    plant: Callable[[pytest.MonkeyPatch], None],
    part: Part,
    section: str,
    quantities: Sequence[str],
    recording: Recording,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case, theirs = recording
    plant(monkeypatch)
    results = results_of(case, [part])
    rows = compare.table(results, {name: theirs[name] for name in results})
    assert red(rows) == {f"{section}: {quantity}" for quantity in quantities}


LOSS = "student/loss/channel"
GRADIENT = "student/gradient/G.head.0.weight"
OTHER = "student/gradient/G.body.8.weight"
BIAS = "student/gradient/E.E.3.bias"
KERNEL = "student/gradient/E.E.3.weight"


def pixels(**levels: int) -> np.ndarray:
    """2000 grey ones, but for the first ones."""
    image = np.full(2000, 100, np.uint8)
    image[: len(levels)] = list(levels.values())
    return image


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ({LOSS: 1.000009}, {LOSS: 1.0}, "ok"),
        ({LOSS: 1.00002}, {LOSS: 1.0}, "DIFFERS"),
        ({LOSS: np.nan}, {LOSS: 1.0}, "DIFFERS"),
        ({LOSS: [1.0]}, {LOSS: 1.0}, "DIFFERS"),
        ({GRADIENT: 3.0, OTHER: np.nan}, {GRADIENT: 3.0, OTHER: 4.0}, "DIFFERS"),
        ({LOSS: 0.0}, {LOSS: 0.0}, "ok"),
        ({}, {LOSS: 1.0}, "MISSING"),
        ({LOSS: 1.0}, {}, "MISSING"),
        ({GRADIENT: [3.0, 4.0]}, {GRADIENT: [3.0003, 4.0]}, "ok"),
        ({GRADIENT: [3.0, 4.0]}, {GRADIENT: [3.001, 4.0]}, "DIFFERS"),
        # float32 costs the reference a third of that
        (
            {GRADIENT: [3.0, 4.0]},
            {GRADIENT: [3.001, 4.0], f"rounding/{GRADIENT}": 0.7e-4},
            "ok",
        ),
        (
            {BIAS: [1e-6, 0], KERNEL: [3.0, 4.0]},
            {BIAS: [0, -1e-6], KERNEL: [3.0, 4.0]},
            "ok",
        ),
        (
            {BIAS: [1e-4, 0], KERNEL: [3.0, 4.0]},
            {BIAS: [1e-4, 0], KERNEL: [3.0, 4.0]},
            "DIFFERS",
        ),
        ({"images/0/psnr": 25.0009}, {"images/0/psnr": 25.0}, "ok"),
        ({"images/0/psnr": 25.0011}, {"images/0/psnr": 25.0}, "DIFFERS"),
        ({"images/0/sr": pixels(a=101)}, {"images/0/sr": pixels()}, "ok"),
        ({"images/0/sr": pixels(a=102)}, {"images/0/sr": pixels()}, "DIFFERS"),
        (
            {"images/0/sr": pixels(a=101, b=99, c=101)},
            {"images/0/sr": pixels()},
            "DIFFERS",
        ),
    ],
)
def test_verdicts(ours: dict, theirs: dict, verdict: str) -> None:
    sides = [{k: np.asarray(v) for k, v in side.items()} for side in (ours, theirs)]
    first, *_ = compare.table(*sides)
    assert first.verdict == verdict
    assert verdict in report.table([first])


def test_table_names_the_missing_and_shows_what_is_no_number(recording) -> None:
    one = {GRADIENT: np.ones(()), OTHER: np.ones(())}
    (row,) = compare.table({GRADIENT: one[GRADIENT]}, one)
    assert f"MISSING {OTHER}" in report.table([row])
    (row,) = compare.table({}, {LOSS: np.ones(())})
    assert f"MISSING {LOSS}" in report.table([row])
    rows = compare.table({**one, OTHER: np.full((), np.nan)}, one)
    assert "  nan  " in report.table(rows).splitlines()[1]

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = report.as_json(recording[0], rows, {}, {})
    (found,) = json.loads(text, parse_constant=refuse)["rows"]
    assert found["worst"] == OTHER and found["arrays"][OTHER]["relative"] == "nan"


def test_reasons_of_a_failed_reference() -> None:
    def reason(code: int, printed: str) -> str:
        done = subprocess.CompletedProcess([], code, "", printed)
        return compare._failure(done)

    assert reason(1, "Traceback:\nKeyError: 'x'\n") == "KeyError: 'x'"
    assert reason(-9, "a warning\n").startswith("signal 9 ended it")


def test_command(recording, tmp_path, monkeypatch, capsys) -> None:
    case, theirs = recording
    monkeypatch.setattr(ours, "everything", lambda case: theirs)
    json_file = tmp_path / "table.json"
    main(["compare", "--replay", str(RECORDING), "--json", str(json_file)])
    assert "all 51 agree." in capsys.readouterr().out
    content = json.loads(json_file.read_text())
    assert content["agrees"] and content["case"] == case.meta
    assert len(content["rows"]) == 51
    arrays = {name for row in content["rows"] for name in row["arrays"]}
    assert arrays == theirs.keys()

    spoilt = {**theirs, LOSS: theirs[LOSS] * 1.001}
    monkeypatch.setattr(ours, "everything", lambda case: spoilt)
    with pytest.raises(SystemExit) as caught:
        main(["compare", "--replay", str(RECORDING)])
    assert caught.value.code == 1
    printed = capsys.readouterr().out
    assert f"DIFFERS {LOSS}" in printed and "1 of 51 differ." in printed

    named = Case({**case.meta, "images": ["a\udcff.png"]}, case.arrays)
    scored = {**theirs, "images/0/psnr": np.array(30.0)}
    monkeypatch.setattr(ours, "everything", lambda case: scored)
    monkeypatch.setattr(cases, "load", lambda path: (named, scored))
    main(["compare", "--replay", str(RECORDING)])
    assert "a\\xff.png" in capsys.readouterr().out


def test_cpu_is_needed(monkeypatch, capsys) -> None:
    def only_a_gpu(backend: str | None = None) -> list:
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", only_a_gpu)
    with pytest.raises(SystemExit) as caught:
        main(["compare", "--replay", str(RECORDING)])
    assert caught.value.code == 2
    assert "unset JAX_PLATFORMS, or add cpu" in capsys.readouterr().err


def test_recording_keeps_all(recording, tmp_path, monkeypatch) -> None:
    case, theirs = recording
    cases.save(tmp_path / "copy", case, theirs)
    copy, again = cases.load(tmp_path / "copy")
    assert copy.meta == case.meta
    for kept, given in ((copy.arrays, case.arrays), (again, theirs)):
        assert kept.keys() == given.keys()
        assert all((kept[name] == given[name]).all() for name in given)

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        cases.save(tmp_path / "other", case, theirs)
    assert left_behind(tmp_path) == ["copy"]


def test_recording_of_other_weights_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cases, "_SEED", 1)
    with pytest.raises(UserError, match="seeded weights differ from those"):
        cases.load(RECORDING)


def test_photographs_and_precision(recording, tmp_path) -> None:
    case, _ = recording
    rng = np.random.default_rng(0)
    photograph = rng.integers(0, 256, (19, 20, 3), np.uint8)
    Image.fromarray(photograph).save(tmp_path / "photograph.png")
    case = cases.with_images(case, tmp_path)
    assert case.meta["images"] == ["photograph.png"]
    np.testing.assert_array_equal(case.arrays["images/0/hr"], photograph[:18])
    assert case.arrays["images/0/noise"].shape == (9, 10, 3)

    results = ours.images(case)
    assert results["images/0/sr"].shape == (3, 18, 20)
    kernel = literal.kernel(3.5, 1.5, math.radians(30))
    noise = 10 * case.arrays["images/0/noise"]
    lr = np.rint(255 * literal.degrade(photograph[:18], kernel, noise, 2))
    np.testing.assert_array_equal(results["images/0/lr"], lr.transpose(2, 0, 1))
    line = report.images(case, results, results).splitlines()[1].split()
    psnr = f"{results['images/0/psnr']:.4f}"
    assert line == ["photograph.png", psnr, psnr, "0.0e+00"]

    theirs = ours.evaluation(case, "student")
    _, *lines, _ = report.precision(compare.precision(case, theirs)).splitlines()
    errors, psnr, _, cost, _ = zip(*(line.split()[-5:] for line in lines), strict=True)
    exact, default, bfloat16 = map(float, errors)
    assert max(exact, default) < 1e-6 and 1e-3 < bfloat16 < 0.1
    assert float(psnr[0]) == pytest.approx(results["images/0/psnr"], abs=1e-3)
    assert cost[0] == "0.000"


def test_photographs_that_are_too_small(recording, tmp_path) -> None:
    Image.new("RGB", (40, 15)).save(tmp_path / "small.png")
    with pytest.raises(UserError, match="small.png: 14x40 pixels are too few"):
        cases.with_images(recording[0], tmp_path)


def test_weights_of_a_file(tmp_path) -> None:
    tensors = reference_tensors(scale=2, channels=18)
    case = cases.of_file(save(tmp_path / "t.safetensors", tensors), scale=2, setting=2)
    assert (case.scale, case.setting) == (2, 2)
    assert case.meta["weights"] == dict.fromkeys(case.roles, "t.safetensors")
    for name, tensor in case.below("weights/teacher").items():
        np.testing.assert_array_equal(tensor, tensors[name])
    student = case.below("weights/student")
    for name, tensor in student.items():
        if not name.startswith("E.E.0."):
            origin = tensors[name.replace("E.E.", "E.encoder_q.E.")]
            np.testing.assert_array_equal(tensor, origin)
    assert student["E.E.0.weight"].shape == (32, 3, 3, 3)

    file = save(tmp_path / "s.safetensors", reference_tensors(scale=2))
    case = cases.of_file(file, scale=None, setting=None)
    assert (case.scale, case.setting) == (2, 1)
    assert case.meta["weights"] == {"student": "s.safetensors", "teacher": "seeded"}
    with pytest.raises(UserError, match="is a student of scale 2, not 3"):
        cases.of_file(file, scale=3, setting=None)
    other = save(tmp_path / "o.safetensors", reference_tensors(scale=2, channels=16))
    with pytest.raises(UserError, match="is a teacher of setting jpeg, which the ref"):
        cases.of_file(other, scale=None, setting=None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "one of the arguments --reference --replay is required"),
        ("--replay {tmp}/nowhere", "No such file or directory"),
        ("--replay {tmp}/other", "other is not a recording of lightbsr compare"),
        ("--replay {recording} --scale 2", "--scale works only with --reference"),
        ("--reference {tmp} --record {tmp}/no/r.npz", "r.npz: its folder does not"),
        ("--reference {tmp} --record {tmp}/r.npz --json j", "--json and --precision"),
        ("--reference {tmp} --record {tmp}", "{tmp} is a folder: give the name of"),
        ("--replay {recording} --json {tmp}", "{tmp} is a folder: give the name of"),
        (
            "--reference {tmp}",
            "is not a checkout of a reference: missing model/",
        ),
    ],
)
def test_mistakes_read_as_one_line(arguments, message, tmp_path, capsys) -> None:
    np.savez(tmp_path / "other.npz", numbers=np.zeros(3))
    (tmp_path / "other.npz").rename(tmp_path / "other")
    line = arguments.format(tmp=tmp_path, recording=RECORDING)
    with pytest.raises(SystemExit) as caught:
        main(["compare", *line.split()])
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert message.format(tmp=tmp_path) in printed
    assert left_behind(tmp_path) == ["other"]


def test_network_that_the_reference_cannot_have(recording, tmp_path) -> None:
    for name in registry.METHODS["lightbsr"].checkout:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="code fixes {'groups': 8"):
        compare.run_reference(tmp_path, recording[0])


def test_recordings_without_numbers_were_made_with_these(recording) -> None:
    """Both programs stepped with them before recordings had the recipe in them."""
    case, _ = recording
    assert case.recipe.adam == Adam(0.9, 0.99, 1e-8)
    assert case.recipe.learning_rates == (2e-4, 2e-4)
    kept = {"method": "kdsr", "learning_rate": 2e-4}
    before = cases._recipe_before(kept)
    assert before["adam"]["b2"] == 0.99 and before["learning_rates"] == [2e-4, 2e-4]
    assert before["distillation"] == {"temperature": 0.15, "l1_weight": 0.0}


if __name__ == "__main__":
    record()
