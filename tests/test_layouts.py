"""Which images of a published benchmark are HR, by the layouts that are in use."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightbsr_jax import cli
from lightbsr_jax.commands import datasets
from lightbsr_jax.data import sources
from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import benchmark, images
from lightbsr_jax.evaluation.restorers import Bicubic
from lightbsr_jax.imaging import layouts


def make(folder: Path, *names: str, side: int = 8) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(path)
    return folder


NAMES = ("baby", "bird")


def files_of(pattern: str) -> list[str]:
    return [pattern.format(name=name, n=f"{i:03}") for i, name in enumerate(NAMES, 1)]


LAYOUTS = {
    "EDSR": (["HR/{name}.png"], ["LR_bicubic/X4/{name}x4.png"], []),
    "BasicSR": (
        ["GTmod12/{name}.png"],
        ["LRbicx4/{name}.png", "LRbicx2/{name}.png"],
        ["original/{name}.png"],
    ),
    "SelfExSR": (
        ["image_SRF_4/img_{n}_SRF_4_HR.png"],
        ["image_SRF_4/img_{n}_SRF_4_LR.png"],
        ["image_SRF_4/img_{n}_SRF_4_SelfExSR.png"],
    ),
    "RCAN": (["HR/Set5/x4/{name}_HR_x4.png"], ["LR/Set5/x4/{name}_LRBI_x4.png"], []),
    "DIV2K": (["DIV2K_train_HR/{n}.png"], ["DIV2K_train_LR_bicubic/X4/{n}x4.png"], []),
    "Flickr2K": (["Flickr2K_HR/{n}.png"], ["Flickr2K_LR_bicubic/X4/{n}x4.png"], []),
    "RealSR": (
        ["Canon/Test/4/Canon_{n}_HR.png"],
        ["Canon/Test/4/Canon_{n}_LR4.png"],
        [],
    ),
    "DRealSR": (["test_HR/sony_{n}_x4.png"], ["test_LR/sony_{n}_x1.png"], []),
    "Manga109": (["{name}.png"], [], []),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layouts(tmp_path: Path, name: str) -> None:
    hr, lr, others = (sum(map(files_of, p), []) for p in LAYOUTS[name])
    make(tmp_path, *hr, *lr, *others)
    layout = layouts.hr_images(tmp_path)
    assert {p.relative_to(tmp_path).as_posix() for _, p in layout.images} == set(hr)
    assert all("/" not in name for name, _ in layout.images)
    assert sum(layout.others.values()) == len(lr) + len(others)


def test_a_set_for_each_scale(tmp_path: Path) -> None:
    for scale in (2, 3, 4):
        for end in ("HR", "LR", "A+"):
            name = f"image_SRF_{scale}/img_{{n}}_SRF_{scale}_{end}.png"
            make(tmp_path, *files_of(name))
    layout = layouts.hr_images(tmp_path, scale=3)
    assert [n for n, _ in layout.images] == files_of("img_{n}_SRF_3_HR.png")
    with pytest.raises(UserError, match="several sets .* image_SRF_2, image_SRF_3"):
        layouts.hr_images(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["{name}.png", "LRbicx4/{name}.png"],
        ["{name}.png", "{name}x4.png"],
        ["images/{name}.png", "X4/{name}x4.png"],
    ],
)
def test_unknown_mixtures_are_refused(tmp_path: Path, names: list[str]) -> None:
    make(tmp_path, *sum(map(files_of, names), []))
    with pytest.raises(UserError, match="mixes HR and LR images"):
        layouts.hr_images(tmp_path)
    found = layouts.survey(tmp_path)
    assert found.layout is None and "mixes HR and LR" in str(found.problem)
    assert "cannot be evaluated on as a whole" in datasets.describe(found)[-1]


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ("{name}.png", "{name}_small.png"),
        ("{name}-big.png", "{name}.png"),
        ("my_{name}.png", "my_{name} of 2.png"),
        ("first/{name}.png", "second/{name}.png"),
    ],
)
@pytest.mark.parametrize("side", [8, 9, 8 * 3 + 1])
def test_smaller_versions_are_refused(
    tmp_path: Path, large: str, small: str, side: int
) -> None:
    """Whatever they are called; images of unrelated sizes are not."""
    make(tmp_path / "mixed", *files_of(large), side=side)
    make(tmp_path / "mixed", *files_of(small), side=side // 4)
    with pytest.raises(UserError, match="is a smaller version of another"):
        layouts.hr_images(tmp_path / "mixed")
    make(tmp_path / "other", *files_of(large), side=side)
    make(tmp_path / "other", *files_of(small), side=side - 1)
    assert len(layouts.hr_images(tmp_path / "other").images) == 4
    make(tmp_path / "mixed", *(f"{i}.png" for i in range(4)))  # now below half
    assert len(layouts.hr_images(tmp_path / "mixed").images) == 8


def test_folders_of_one_kind_are_taken_as_they_are(tmp_path: Path) -> None:
    """Names that only look like others', and folders that are named themselves."""
    make(tmp_path / "holidays", "beach.png", "hr 1.png", "theatre/gt500.png")
    assert len(layouts.hr_images(tmp_path / "holidays").images) == 3
    make(tmp_path / "Set5" / "LRbicx4", *files_of("{name}.png"))
    assert len(layouts.hr_images(tmp_path / "Set5" / "LRbicx4").images) == 2


PAIRS = {
    "EDSR": ("Set5/LR_bicubic/X4/babyx4.png", "baby.png"),
    "BasicSR": ("Set5/LRbicx4/baby.png", "baby.png"),
    "scale alone": ("X4/babyx4.png", "baby.png"),
    "ours": ("Set5/baby.png", "baby.png"),
    "RealSR": ("Canon_001_LR4.png", "Canon_001_HR.png"),
    "SelfExSR": ("Set5/image_SRF_4/img_001_SRF_4_LR.png", "img_001_SRF_4_HR.png"),
    "RCAN": ("Set5/x4/baby_LRBI_x4.png", "baby_HR_x4.png"),
    "another format": ("Set5/baby.bmp", "baby.png"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_published_pairs(tmp_path: Path, name: str) -> None:
    lr, hr = PAIRS[name]
    make(tmp_path, lr)
    assert layouts.lr_image(tmp_path, "Set5", hr, 4) == tmp_path / lr
    assert layouts.lr_image(tmp_path, "Set5", hr, 3) is None or "x" not in lr.lower()


def test_an_lr_image_beside_its_hr_image(tmp_path: Path) -> None:
    make(tmp_path, "Canon_001_HR.png", "Canon_001_LR4.png")
    found = layouts.lr_image(tmp_path, "x", "Canon_001_HR.png", 4)
    assert found == tmp_path / "Canon_001_LR4.png"


def test_an_image_that_cannot_be_read_is_no_smaller_version(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    (tmp_path / "a_edit.png").write_bytes(b"not a picture")
    assert len(layouts.hr_images(tmp_path).images) == 3


def test_lr_images_end_in_either_case(tmp_path: Path) -> None:
    make(tmp_path, "Set5/baby.PNG")
    found = layouts.lr_image(tmp_path, "Set5", "baby.png", 4)
    assert found is not None and found.samefile(tmp_path / "Set5" / "baby.PNG")


def test_a_folder_is_described(tmp_path: Path) -> None:
    make(tmp_path, *files_of("GTmod12/{name}.png"), side=16)
    make(tmp_path, *files_of("LRbicx4/{name}.png"), side=4)
    found = layouts.survey(tmp_path)
    assert found.sets[0] == layouts.ImageSet("GTmod12", "HR", 2, (16, 16), (16, 16))
    assert datasets.describe(found) == [
        "GTmod12: 2 images, HR, 16x16 to 16x16",
        "LRbicx4: 2 images, LR, 4x4 to 4x4",
        "taken as HR: 2 images",
    ]


def test_evaluation_takes_hr_alone_and_pairs_as_published(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """GTmod12 beside LRbicx4: bicubic was measured on both, 25.08 dB for 27.69."""
    root = tmp_path / "Set5"
    rng = np.random.default_rng(0)
    (root / "GTmod12").mkdir(parents=True)
    (root / "LRbicx4").mkdir()
    hr = rng.integers(256, size=(50, 60, 3), dtype=np.uint8)
    lr = rng.integers(256, size=(11, 14, 3), dtype=np.uint8)  # of 44 x 56
    Image.fromarray(hr).save(root / "GTmod12" / "baby.png")
    Image.fromarray(lr).save(root / "LRbicx4" / "baby.png")
    (image,) = images.find([root])
    assert (image.benchmark, image.name) == ("Set5", "baby.png")
    cropped = images.read_hr(image, scale=4)
    case = images.GIVEN
    with caplog.at_level("WARNING"):
        for _ in range(2):
            read = images.read_lr(tmp_path, image, case, hr=cropped, scale=4)
            np.testing.assert_array_equal(read, lr)
    assert caplog.text.count("baby.png of Set5 is cropped to 56x44") == 1
    scores = benchmark.evaluate(
        {"bicubic": Bicubic(4)}, [root], [case], scale=4, lr_folder=tmp_path
    )
    assert len(scores) == 1
    smaller = Image.fromarray(lr[:5, :5])
    smaller.save(root / "LRbicx4" / "baby.png")
    with pytest.raises(UserError, match="is 5x5 pixels"):
        images.read_lr(tmp_path, image, case, hr=cropped, scale=4)


def test_training_takes_hr_alone(tmp_path: Path) -> None:
    make(tmp_path, "DIV2K_train_HR/0001.png", "DIV2K_train_LR_bicubic/X4/0001x4.png")
    assert [name for name, _ in sources.find_all([tmp_path])] == ["0001.png"]


def test_images_that_are_left_out_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By training, its validation and evaluation, which take the one called HR."""
    make(tmp_path, "a.png", "b.png", "car_gt.png")
    message = (
        f"{tmp_path}: only 1 of 3 images are used, which are HR by their names or "
        "folders, such as car_gt.png"
    )
    for find in (
        lambda: sources.find_all([tmp_path]),
        lambda: sources.first_images(str(tmp_path), 3),
        lambda: images.find([tmp_path]),
    ):
        caplog.clear()
        assert len(find()) == 1
        assert caplog.messages == [message]


def test_the_command_says_what_it_sees(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make(tmp_path, "HR/a.png", "LR_bicubic/X4/ax4.png")
    cli.main(["datasets", str(tmp_path)])
    assert capsys.readouterr().out.endswith("taken as HR: 1 images\n")
