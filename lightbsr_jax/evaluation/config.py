"""The typed config of a measurement, made from a config of configs/benchmark.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import cases
from lightbsr_jax.evaluation.benchmark import Measures
from lightbsr_jax.imaging import settings
from lightbsr_jax.imaging.settings import Case

Parameters = Mapping[str, Sequence[Any]]  # of test degradations, by their names


@dataclass(frozen=True)
class Measurement:
    """The config of a measurement; configs/benchmark.py explains its fields."""

    setting: settings.Name | None
    scale: int | None
    root: str
    benchmarks: tuple[str, ...]
    tested: Parameters  # of every setting
    separated: Parameters  # of every setting, for the separation of IDRs
    seed: int
    spoilt: bool
    unpaired: bool
    niqe: bool
    lanczos: bool
    batch_size: int
    pictures: int
    crop: int
    self_ensemble: bool
    measures: Measures
    as_given: Mapping[str, Any]  # all fields, JSON-able

    @classmethod
    def from_flags(cls, config: ConfigDict) -> "Measurement":
        """Converts the config of a preset and its flags.

        Raises UserError if a field is missing, as those of other configs are.
        """
        try:
            return cls._of(config.to_dict())
        except KeyError as error:
            raise UserError(
                f"config.{error.args[0]} is missing: evaluation takes "
                "--config=configs/benchmark.py, or a copy of it"
            ) from error

    @classmethod
    def _of(cls, values: dict[str, Any]) -> "Measurement":
        values["setting"] = settings.of_config(values["setting"])
        names = {
            name for setting in settings.SETTINGS.values() for name in setting.tested
        }
        return cls(
            setting=values["setting"],
            scale=values["scale"],
            root=values["root"],
            benchmarks=tuple(map(str, values["benchmarks"])),
            tested={name: values[name] for name in names & values.keys()},
            separated={
                name: values["idr"][name] for name in names & values["idr"].keys()
            },
            seed=values["seed"],
            spoilt=values["spoilt"],
            unpaired=values["unpaired"],
            niqe=values["niqe"],
            lanczos=values["lanczos"],
            batch_size=values["batch_size"],
            pictures=values["pictures"],
            crop=values["crop"],
            self_ensemble=values["self_ensemble"],
            measures=Measures(values["channels"], values["border"]),
            as_given=values,
        )

    def cases(self) -> list[Case]:
        """The degradations to measure. Raises UserError, which names the field."""
        return _cases(self.setting, self.tested, "config")

    def separated_cases(self, setting: settings.Name) -> list[Case]:
        """The degradations of a setting whose IDRs are compared; raises as `cases`."""
        return _cases(setting, self.separated, "config.idr")


def _cases(
    setting: settings.Name | None, parameters: Parameters, group: str
) -> list[Case]:
    own = settings.of(setting).tested if setting is not None else {}
    chosen = {name: parameters[name] for name in own if name in parameters}
    try:
        return cases.make(setting, **chosen)
    except UserError as error:
        raise UserError(f"{group}.{error}") from error
