"""The identity of a network: read out of configs, and what follows from it."""

import dataclasses
import json
from typing import Any

import pytest
from ml_collections import ConfigDict

from configs import dasr, kdsr_student, kdsr_teacher, student, teacher
from lightbsr_jax.errors import UserError
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.spec import Contrast, ModelSpec, RunSpec, Sees

CONFIGS = {
    "teacher": teacher.get_config("setting2"),
    "student": student.get_config("demo"),
    "kdsr teacher": kdsr_teacher.get_config("large1"),
    "kdsr student": kdsr_student.get_config("setting2"),
    "dasr": dasr.get_config("demo"),
    "T1": teacher.get_config("t1"),
    "M2": teacher.get_config("m2"),
}
# What a config of the first version said, and what converted weights still say.
SHORT: dict[str, Any] = {
    "role": "student",
    "setting": 1,
    "scale": 4,
    "network": {"groups": 2, "blocks": 3},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_becomes_json_and_a_spec_again(name: str) -> None:
    spec = ModelSpec.from_config(CONFIGS[name])
    text = json.dumps(spec.as_config())
    again = ModelSpec.from_config(json.loads(text))
    assert again == spec and hash(again) == hash(spec)
    assert again.shapes() == spec.shapes()


@pytest.mark.parametrize("name", CONFIGS)
def test_network_and_shapes_are_the_configs(name: str) -> None:
    config = CONFIGS[name]
    spec = ModelSpec.from_config(config)
    sizes = config.network.to_dict()
    assert spec.make_network() == spec.entry.network(config.scale, **sizes)
    channels = {"teacher": 3 + 18, "kdsr teacher": 3 + 48, "T1": 3, "M2": 3 + 15}
    kernel = spec.shapes()["params"]["estimator"]["conv_0"]["kernel"]
    assert kernel.shape[2] == channels.get(name, 3)
    assert ("projector" in spec.shapes()["params"]) == (name != "student")


def test_what_a_config_leaves_out_is_as_published() -> None:
    spec = ModelSpec.from_config(SHORT)
    assert (spec.method, spec.prior) == ("lightbsr", True)
    assert spec.network == {
        **{"groups": 2, "blocks": 3},
        **dict.fromkeys(
            ("spatial_modulation", "channel_modulation", "converter_blocks"), True
        ),
    }
    full = {**SHORT, "method": "lightbsr", "prior": True, "network": dict(spec.network)}
    assert ModelSpec.from_config(full) == spec
    fewer = ModelSpec.from_config({k: v for k, v in SHORT.items() if k != "network"})
    assert fewer.make_network() == LightBSR(4)


def test_what_an_estimator_sees() -> None:
    seen = {n: ModelSpec.from_config(config).sees for n, config in CONFIGS.items()}
    assert seen == {
        "teacher": Sees.PRIOR,
        "student": Sees.NOTHING,
        "kdsr teacher": Sees.HIGH_RESOLUTION,
        "kdsr student": Sees.NOTHING,
        "dasr": Sees.NOTHING,
        "T1": Sees.NOTHING,  # the ablation without the prior
        "M2": Sees.PRIOR,
    }
    assert [n for n in CONFIGS if ModelSpec.from_config(CONFIGS[n]).ablated] == [
        *("T1", "M2")
    ]


def test_words() -> None:
    spec = ModelSpec.from_config(SHORT)
    assert str(spec) == "student of setting 1, x4, 2 groups of 3 blocks"
    assert (spec.kind, spec.title) == ("student", "LightBSR")
    of_kdsr = ModelSpec.from_config(CONFIGS["kdsr teacher"])
    assert (of_kdsr.kind, of_kdsr.title) == ("teacher of KDSR", "KDSR teacher")
    assert str(of_kdsr) == (
        "teacher of KDSR of setting 1, x4, 128 features, 28 blocks, 5 residual blocks"
    )


def test_a_network_at_hand() -> None:
    network = LightBSR(2, groups=1, blocks=4, converter_blocks=False, remat=False)
    spec = ModelSpec.of_network(network, "teacher", 2, prior=False)
    assert (spec.scale, spec.setting, spec.prior) == (2, 2, False)
    assert spec.make_network(remat=False) == network


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "esrgan"},
            "x.json: method 'esrgan' is unknown",
        ),
        (
            {"role": "network"},
            "role 'network' is unknown to this version: use one of teacher",
        ),
        ({"setting": 3}, "setting 3 is unknown to this version: use one of 1, 2"),
        ({"scale": 5}, "scale 5 is unknown to this version: use one of 2, 3, 4"),
        ({"network": {"depth": 1}}, "network.depth: LightBSR has no such size"),
        (
            {"network": {"groups": 0}},
            "x.json: network.groups 0 is too small: at least 1",
        ),
    ],
)
def test_what_no_network_is(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelSpec.from_config({**SHORT, **changes}, "x.json")


def test_what_no_config_is() -> None:
    with pytest.raises(UserError, match="x.json lacks role, scale"):
        ModelSpec.from_config({"setting": 1}, "x.json")


def test_what_a_run_keeps() -> None:
    run = RunSpec.from_config(CONFIGS["T1"])
    assert run.contrast == Contrast(queue_size=8192, crops=1, enabled=False)
    assert not run.averaged and run.model == ModelSpec.from_config(CONFIGS["T1"])
    short = RunSpec.from_config(student.get_config("setting1-short"))
    assert short.averaged and short.contrast is None
    converted = RunSpec.from_config({**SHORT, "contrast": {"queue_size": 8}})
    assert converted.contrast == Contrast(8, crops=None, enabled=True)
    assert not converted.averaged


def test_a_config_dict_reads_as_its_json_does() -> None:
    config = ConfigDict(SHORT)
    assert ModelSpec.from_config(config) == ModelSpec.from_config(SHORT)
    assert dataclasses.replace(ModelSpec.from_config(config), scale=2).scale == 2


def test_of_an_ablation_there_is_a_teacher_without_prior_alone() -> None:
    """A student never sees one."""
    for role, ablated in {"teacher": True, "student": False}.items():
        assert ModelSpec("lightbsr", role, 1, 4, prior=False).ablated is ablated
        assert not ModelSpec("lightbsr", role, 1, 4).ablated


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"contrast": 3}, "f: contrast 3 is not a group of fields"),
        ({"contrast": {}}, "f lacks contrast.queue_size: add the field"),
        ({"contrast": {"queue_size": "a"}}, "contrast.queue_size 'a' is not a whole"),
        ({"contrast": {"queue_size": 4, "crops": "a"}}, "contrast.crops 'a' is not"),
        ({"contrast": {"queue_size": 4, "enabled": 1}}, "enabled 1 is neither true"),
        ({"ema_decay": "a"}, "f: ema_decay 'a' is not a number"),
        ({"optimizer": 3}, "f: optimizer 3 is not a text"),
        ({"adversarial": None}, "f: adversarial None is not a group of fields"),
        ({"adversarial": {"features": 1.5}}, "features 1.5 is not a whole number"),
        ({"network": {"blocks": "a"}}, "f: network.blocks 'a' is not a whole number"),
    ],
)
def test_values_of_a_wrong_type_are_named(fields, message) -> None:
    """In the config of a file that was made by hand."""
    config = {"role": "student", "setting": 1, "scale": 4, **fields}
    with pytest.raises(UserError, match=message):
        RunSpec.from_config(config, "f")
