"""The degradations to test."""

import math

import numpy as np
import pytest

from configs.benchmark import get_config
from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import cases, published
from lightbsr_jax.evaluation.config import Measurement
from lightbsr_jax.imaging import settings


def labels(config) -> list[str]:
    tested = settings.of(config.setting).tested if config.setting else {}
    made = cases.make(config.setting, **{name: config[name] for name in tested})
    return [case.label for case in made]


def test_settings_may_be_given_as_text() -> None:
    """As flags give them where the preset's setting has a name."""
    config = get_config("photo")
    config.setting = "2"
    wanted = Measurement.from_flags(config)
    assert wanted.setting == wanted.as_given["setting"] == 2
    assert len(wanted.cases()) == 18
    config.setting = "two"
    with pytest.raises(UserError, match="config.setting: setting two does not exist"):
        Measurement.from_flags(config)


def test_kernels_of_a_validation_are_as_wide_in_lr_pixels() -> None:
    """So that they are among those that a network of that scale is trained on."""

    def labels(setting: settings.Name, scale: int) -> list[str]:
        return [case.label for case in cases.of_scale(setting, scale)]

    assert labels(1, 2) == ["sigma 0.6", "sigma 1.2", "sigma 1.8"]
    assert labels(1, 3) == ["sigma 0.9", "sigma 1.8", "sigma 2.7"]
    assert labels("jpeg", 2)[:2] == ["sigma 0.3 quality 30", "sigma 0.45 quality 30"]
    assert labels(2, 2)[:2] == ["(1, 0.25, 0) noise 5", "(1, 0.5, 10) noise 5"]
    assert len(labels(2, 2)) == len(cases.make(2))
    for setting in settings.SETTINGS:
        assert labels(setting, 4) == [case.label for case in cases.make(setting)]
    assert labels("photo", 2) == labels("photo", 4)


def test_presets_are_the_papers() -> None:
    sigmas = ["sigma 1.2", "sigma 2.4", "sigma 3.6"]
    anisotropic = [
        f"{settings.anisotropic_name(kernel)} noise {noise}"
        for noise in (5, 10)
        for kernel in settings.KERNELS
    ]
    assert anisotropic[0] == "(2, 0.5, 0) noise 5"
    for preset in ("setting1", "table1", "table2", "table3", "spoilt"):
        assert labels(get_config(preset)) == sigmas
    assert labels(get_config("setting2")) == anisotropic
    assert [case.label for case in cases.make(1)] == sigmas
    assert [case.label for case in cases.make(2)] == anisotropic

    with_dsat = labels(get_config("table4"))
    assert [label for label in with_dsat if "(2, 0.2, 0)" not in label] == anisotropic
    assert len(with_dsat) == 20
    assert get_config("table3").benchmarks == published.BENCHMARKS
    assert get_config("table4").benchmarks == ("B100",)
    assert get_config("spoilt").spoilt
    assert labels(get_config("given")) == ["given"]
    with pytest.raises(ValueError, match="no preset 'table5': use one of setting1"):
        get_config("table5")


def test_kernel_of_a_case_is_in_degrees() -> None:
    (case,) = cases.make(2, kernels=[(3.5, 1.5, 30)], noise_levels=[5.0])
    assert (case.kernel, case.noise) == ("(3.5, 1.5, 30)", "noise 5")
    angle = math.radians(30)
    rotation = np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    inverse = np.linalg.inv(rotation @ np.diag([3.5**2, 1.5**2]) @ rotation.T)
    offsets = np.arange(-10, 11)
    kernel = np.array(
        [
            [math.exp(-0.5 * np.array([x, y]) @ inverse @ [x, y]) for x in offsets]
            for y in offsets
        ]
    )
    np.testing.assert_allclose(
        case.degradation.kernel[0], kernel / kernel.sum(), atol=1e-7
    )
    assert case.degradation.noise_level.tolist() == [5.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"setting": 1, "sigmas": [0.0]}, "above 0"),
        ({"setting": 2, "kernels": (2, 1, 10)}, "kernels 2: expected"),
        ({"setting": 2, "kernels": [(2, 0, 1)]}, "above 0"),
        ({"setting": 2, "noise_levels": [-1.0]}, "negative"),
        ({"setting": 3}, "setting 3"),
    ],
)
def test_wrong_cases(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cases.make(**options)


@pytest.mark.parametrize(
    ("preset", "field", "value", "message"),
    [
        ("setting1", "sigmas", ("a",), r"\('a',\): 'a' is not a finite number"),
        ("setting1", "sigmas", ((1, 2),), r"\(1, 2\) is not a finite number"),
        ("setting1", "sigmas", (math.nan,), "nan is not a finite number"),
        ("setting2", "kernels", (("a", 1, 2),), r"\('a', 1, 2\): expected"),
        ("setting2", "kernels", ((2, 1, math.inf),), r"\(2, 1, inf\)"),
        ("setting2", "kernels", ((1, (2, 3), 4),), r"\(1, \(2, 3\), 4\)"),
        ("setting2", "kernels", ("abc",), "'abc': expected"),
        ("setting2", "noise_levels", ("a",), "'a' is not a finite"),
        ("jpeg", "sigmas", (None,), "None is not a finite number"),
        ("jpeg", "qualities", ("a",), "'a' is not in 1..100"),
        ("real", "draws", ("a",), "'a' is not a finite number"),
    ],
)
def test_values_that_are_no_numbers(preset, field, value, message) -> None:
    config = get_config(preset)
    config.update({field: value})
    with pytest.raises(UserError, match=f"config.{field} .*{message}"):
        Measurement.from_flags(config).cases()


def test_degradations_whose_idrs_are_compared_are_named() -> None:
    config = get_config("setting2")
    config.idr.sigmas = ("a",)
    with pytest.raises(UserError, match=r"config.idr.sigmas \('a',\): 'a' is not"):
        Measurement.from_flags(config).separated_cases(1)
