"""The degradations to test."""

import math

import numpy as np
import pytest

from configs.benchmark import get_config
from lightbsr_jax.evaluation import cases, published
from lightbsr_jax.imaging import settings


def labels(config) -> list[str]:
    tested = settings.of(config.setting).tested if config.setting else {}
    made = cases.make(config.setting, **{name: config[name] for name in tested})
    return [case.label for case in made]


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
        ({"setting": 2, "kernels": (2, 1, 10)}, "kernel 2: expected"),
        ({"setting": 2, "kernels": [(2, 0, 1)]}, "above 0"),
        ({"setting": 2, "noise_levels": [-1.0]}, "negative"),
        ({"setting": 3}, "setting 3"),
    ],
)
def test_wrong_cases(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cases.make(**options)
