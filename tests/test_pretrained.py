"""Networks as single files, and those that come with the package."""

import io
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers.reference_weights import reference_tensors, save
from PIL import Image

from lightbsr_jax import cli
from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation.restorers import Bicubic
from lightbsr_jax.imaging import degradation, files, kernels, metrics
from lightbsr_jax.inference.upscaler import Upscaler
from lightbsr_jax.interop import convert
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models import packed
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import Contrast, ModelSpec, RunSpec
from lightbsr_jax.training import pack

SHIPPED = sorted(packed.FOLDER.glob("*.safetensors"))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny student of setting 2."""
    folder = tmp_path_factory.mktemp("student")
    state_dict = save(folder / "x.safetensors", reference_tensors(scale=2))
    convert.to_workdir(state_dict, folder / "run", setting=2)
    lines = [
        '{"step": 0, "stage": 1, "steps_per_second": 4.0}',
        '{"step": 20, "stage": 1, "steps_per_second": 2.0}',
    ]
    (folder / "run" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "run"


@pytest.fixture
def named(workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny student in the place of the weights that come with the package."""
    monkeypatch.setattr(packed, "FOLDER", tmp_path / "weights")
    monkeypatch.setattr(packed, "DEFAULT", "setting2")
    file = tmp_path / "weights" / "setting2.safetensors"
    cli.main(["pack", str(workdir), str(file)])
    return file


def test_others_may_read_packed_files(named: Path, tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    assert named.stat().st_mode == (tmp_path / "usual").stat().st_mode


def leaves(model: Model) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(model)]


def test_a_packed_network_is_the_workdirs(workdir: Path, named: Path) -> None:
    trained = Model.load(workdir)
    for source in ("setting2", str(named), named):
        model = Model.load(source)
        assert (model.role, model.setting, model.scale) == ("student", 2, 2)
        assert jax.tree.structure(model) == jax.tree.structure(trained)
        for ours, theirs in zip(leaves(model), leaves(trained), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    about, _ = packed.read(named)
    assert about["config"]["role"] == "student" and about["step"] == 0


def test_a_packed_network_goes_to_the_reference(workdir, named, tmp_path) -> None:
    for source, name in ((str(workdir), "a"), ("setting2", "b")):
        cli.main(["convert", source, str(tmp_path / f"{name}.safetensors")])
    trained, out_of_pack = (
        safetensors.numpy.load_file(tmp_path / f"{name}.safetensors") for name in "ab"
    )
    assert trained.keys() == out_of_pack.keys()
    for name, tensor in trained.items():
        if not name.endswith("num_batches_tracked"):  # converted weights' own counts
            np.testing.assert_array_equal(tensor, out_of_pack[name])


def test_what_the_reference_lacks_is_refused_by_its_name(named, tmp_path) -> None:
    about, model = packed.read(named)
    about["config"]["network"]["channel_modulation"] = False
    file = tmp_path / "t1.safetensors"
    packed.write(file, about, model, half=False)
    with pytest.raises(UserError, match=r"t1\.safetensors holds an ablation"):
        convert.to_file(file, tmp_path / "out.safetensors")


def test_unknown_counts_name_a_remedy_that_works() -> None:
    """The config that counts is the checkpoint's, which nobody can edit."""
    network = LightBSR(2, groups=1, blocks=1)
    spec = ModelSpec.of_network(network, "teacher", 1)
    with pytest.raises(UserError, match="contrast.crops.*: convert the state dict"):
        convert._counts(RunSpec(spec, Contrast(24)), 5)


def test_half_precision_rounds_the_parameters_alone(workdir, tmp_path, capsys) -> None:
    file = tmp_path / "half.safetensors"
    cli.main(["pack", str(workdir), str(file), "--half"])
    assert "float16 parameters" in capsys.readouterr().out
    model, trained = Model.load(file), Model.load(workdir)
    for ours, theirs in zip(leaves(model), leaves(trained), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=2**-11, atol=2**-25)
    ours, theirs = model.variables["batch_stats"], trained.variables["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    pairs = zip(leaves(model), leaves(trained), strict=True)
    assert any((ours != theirs).any() for ours, theirs in pairs)


def test_names_in_the_card_that_are_not_utf_8_are_printed(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    markdown = pack.markdown
    given = {"init": "a\udcff"}

    def from_it(facts: pack.Facts) -> str:
        return markdown(facts._replace(config=facts.config | given))

    monkeypatch.setattr(pack, "markdown", from_it)
    cli.main(["pack", str(workdir), str(tmp_path / "x.safetensors")])
    assert "| started from | a\\xff |\n" in capsys.readouterr().out


def test_facts_for_the_card(workdir: Path, tmp_path: Path) -> None:
    facts = pack.pack(workdir, tmp_path / "x.safetensors", half=False)
    assert facts.bytes == (tmp_path / "x.safetensors").stat().st_size
    again = pack.pack(workdir, tmp_path / "y.safetensors", half=False)
    assert again == facts  # its checksum, too
    printed = pack.markdown(facts)
    assert (
        "| network | student, setting 2, x2 |" in printed
        and "| updates | 0 |" in printed
    )
    # Of what later steps took nothing is in the weights.
    assert facts.seconds == 0 and pack.seconds(workdir, 20) == 10


def test_upscaling_takes_them_without_being_told(named, tmp_path, capsys) -> None:
    image = np.random.default_rng(1).integers(256, size=(6, 7, 3), dtype=np.uint8)
    files.write_png(tmp_path / "in.png", image)
    outputs = []
    for options in ([], ["--weights=setting2"], [f"--weights={named}"]):
        out = tmp_path / f"{len(outputs)}.png"
        given = ["upscale", str(tmp_path / "in.png"), "-o", str(out), *options]
        cli.main([*given, "--precision=float32"])  # on every processor
        outputs.append(np.asarray(Image.open(out)))
    expected = Upscaler.load("setting2")(image)
    for output in outputs:
        np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("upscale x.png -o out --weights=setting9", "no weights 'setting9' come with"),
        ("upscale x.png -o out --weights=a --workdir=b", "not allowed with"),
        (
            "upscale scikit-image:test -o out --workdir=setting2 --dry-run",
            "setting2 holds no checkpoints",
        ),
        ("pack {run} x.pt", "the name must end in .safetensors"),
        ("pack {run} {file}", "exists: give another name, or --overwrite"),
        ("pack {run} {folder}.safetensors --overwrite", "is a folder: give the name"),
        ("convert {run} {folder}.safetensors", "is a folder: give the name of a file"),
        ("export {run} {folder}.param --overwrite", "is a folder: give the name of a"),
        ("pack nowhere x.safetensors", "nowhere holds no checkpoints"),
    ],
)
def test_mistakes_are_one_line(line, message, workdir, named, tmp_path, capsys) -> None:
    folder = tmp_path / "folder"
    for suffix in (".param", ".safetensors"):
        folder.with_suffix(suffix).mkdir()
    with pytest.raises(SystemExit) as caught:
        cli.main(line.format(run=workdir, file=named, folder=folder).split())
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    assert not folder.with_suffix(".bin").exists()


def test_a_flipped_bit_is_found(workdir: Path, tmp_path: Path) -> None:
    """In tensors and in facts about them; files without a checksum are read."""
    file = tmp_path / "x.safetensors"
    cli.main(["pack", str(workdir), str(file)])
    whole = file.read_bytes()
    about, model = packed.read(file)
    assert "checksum" not in about
    step = whole.index(b'step\\": 0') + 8
    for place in (len(whole) // 2, len(whole) - 1, step):
        content = bytearray(whole)
        content[place] ^= 1
        file.write_bytes(content)
        with pytest.raises(UserError, match="x.safetensors is damaged: its content"):
            packed.read(file)

    tensors = {"basis": np.ones(3, np.float32)}
    text = '{"config": {}, "step": 1}'
    packed.safetensors.numpy.save_file(tensors, file, {"lightbsr_jax": text})
    assert packed.read(file)[0] == {"config": {}, "step": 1}


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    model = {"params": {"head": {"kernel": np.array([1, -7e4], np.float32)}}}
    packed.write(tmp_path / "x.safetensors", {}, model, half=False)
    with pytest.raises(UserError, match="params/head/kernel .* -70000: .*without --ha"):
        packed.write(tmp_path / "y.safetensors", {}, model, half=True)


def test_other_files_are_refused(named: Path, tmp_path: Path) -> None:
    theirs = save(tmp_path / "theirs.safetensors", reference_tensors())
    with pytest.raises(UserError, match="is not a file of lightbsr pack"):
        packed.read(theirs)
    assert packed.find(theirs) is None
    other = save(tmp_path / "other.safetensors", {"conv.weight": np.zeros(3)})
    with pytest.raises(UserError, match="other.safetensors is not a network of the p"):
        Model.load(other)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(named.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        Model.load(damaged)
    about, model = packed.read(named)
    del model["params"]["estimator"]["conv_0"]["bias"]
    packed.write(tmp_path / "less.safetensors", about, model, half=False)
    with pytest.raises(UserError, match="params/estimator/conv_0/bias: None, expected"):
        Model.load(tmp_path / "less.safetensors")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_what_ships_beats_bicubic(file: Path) -> None:
    """On a part of a photograph that no run was trained on, in its own setting."""
    model = Model.load(file.stem)
    assert (model.role, model.scale) == ("student", 4)
    assert file.stem.removeprefix("setting") == str(model.setting)
    assert file.with_suffix(".md").read_text().startswith(f"# {file.stem}")
    (_, path), *_ = files.find_images("scikit-image:test")
    hr = files.read_rgb(path)[None, :192, 128:320]  # a face
    noise_level = np.array([5.0 if model.setting == 2 else 0.0])
    known = degradation.Degradation(kernels.isotropic(np.array([2.4])), noise_level)
    noise = np.random.default_rng(1).standard_normal((1, 48, 48, 3))
    lr = np.asarray(degradation.synthesise(hr, known, noise, scale=4))
    if model.setting == "photo":
        lr = _compressed(lr)
    (ours,), (bicubic,) = (
        metrics.psnr_y(metrics.quantise(restorer.restore(lr)), hr, border=4)
        for restorer in (model, Bicubic(4))
    )
    assert ours > bicubic + 0.5


def _compressed(images: np.ndarray) -> np.ndarray:
    """Images as a JPEG of quality 75 keeps them."""
    kept = []
    for image in images:
        file = io.BytesIO()
        levels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
        Image.fromarray(levels).save(file, "JPEG", quality=75)
        kept.append(np.asarray(Image.open(file), np.float32) / 255)
    return np.stack(kept)
