"""A trained network, ready for use.

    model = Model.load("runs/student")  # or "setting2", which comes with the package
    sr = model.restore(lr)

LR images are [B, h, w, 3] RGB in [0, 1], SR images [B, h s, w s, 3] in 0..255.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax import Array

from lightbsr_jax.compilation import inference_jit
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import prior, settings
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.methods import registry
from lightbsr_jax.methods.method import Method
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.models import packed
from lightbsr_jax.models.checkpoint import opened

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Model:
    """A network with its weights, and the prior's basis that they were trained with.

    A pytree, whose leaves are its numbers: an argument of compiled functions.
    """

    role: str = field(metadata=_STATIC)  # "teacher", "student"; "network" if neither
    # 1 or 2, the kind of degradation that it was trained for
    setting: int = field(metadata=_STATIC)
    network: BlindNetwork = field(metadata=_STATIC)
    variables: dict[str, Any]  # {"params", "batch_stats"}
    basis: Array  # [441, 15]; zeros where a converted student came without
    step: int = 0  # updates that it was trained for
    prior: bool = field(default=True, metadata=_STATIC)  # whether a teacher sees it

    @property
    def scale(self) -> int:
        return self.network.scale

    @property
    def method(self) -> Method:
        return registry.of_network(self.network)

    @property
    def title(self) -> str:
        """Such as "LightBSR teacher"; of what restores LR images alone, "LightBSR"."""
        return self.method.title + " teacher" * (self.role == "teacher")

    @classmethod
    def load(cls, source: str | Path) -> "Model":
        """The network of weights that come with the package, of a file, or of a run.

        `source` is the weights' name ("setting2"), a file that `lightbsr pack` wrote,
        or the workdir of a run: of that, the newest checkpoint that is not damaged.
        Raises FileNotFoundError where there is nothing, UserError for any other file.
        """
        file = packed.find(source)
        if file is None and Path(source).is_file():
            file = Path(source)
        if file is not None:
            about, restored = packed.read(file)
            step = about["step"]
            _check_shapes(file, restored, shapes(about))
        else:
            with opened(source) as checkpoints:
                step, about, restored = checkpoints.model(shapes)
        config = about["config"]
        restored = jax.device_put(restored, jax.local_devices()[0])
        return cls(
            role=config["role"],
            setting=config["setting"],
            network=registry.make_network(config),
            basis=restored.pop("basis"),
            variables=restored,
            step=step,
            prior=config.get("prior", True),
        )

    def restore(
        self,
        lr: Array,
        degradation: Degradation | None = None,
        hr: Array | None = None,
    ) -> Array:
        """SR images of LR images, not rounded.

        A teacher needs the truth (UserError without): LightBSR's the `degradation`,
        KDSR's the HR images in 0..255. A student ignores them.
        """
        privileged = self.privileged(len(lr), degradation, hr)
        return _restore(self.network, self.variables, lr, privileged)

    def encode(
        self,
        lr: Array,
        degradation: Degradation | None = None,
        hr: Array | None = None,
    ) -> Array:
        """The IDRs [B, h', w', C] of LR images; the rest is as for `restore`."""
        privileged = self.privileged(len(lr), degradation, hr)
        return self.network.apply(self.variables, lr, privileged, method="encode")

    def privileged(
        self, batch: int, degradation: Degradation | None, hr: Array | None
    ) -> Array | None:
        """What the network sees beside LR images, in its own terms; None for none."""
        if self.role != "teacher":
            return None
        if self.method.privileged == "hr":
            if hr is None:
                raise UserError(
                    "a teacher of KDSR sees the HR image: give it, or use a student"
                )
            return jnp.asarray(hr) / 255
        if not self.prior:
            return jnp.zeros((batch, 0))
        if degradation is None:
            raise UserError(
                "a teacher sees the true degradation: give it, or use a student"
            )
        return settings.of(self.setting).prior_vector(degradation, self.basis)


def shapes(about: dict[str, Any]) -> dict[str, Any]:
    """The shapes of {"params", "batch_stats", "basis"}, of the model of a config."""
    initial = partial(registry.fresh_variables, about["config"])
    basis = jax.ShapeDtypeStruct(prior.BASIS_SHAPE, jnp.float32)
    return {**jax.eval_shape(initial, jax.random.key(0)), "basis": basis}


def _check_shapes(file: Path, model: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises UserError where a file's tensors are not those of its network."""

    def forms(tree: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        flat = flatten_dict(tree, sep="/")
        return {name: tensor.shape for name, tensor in flat.items()}

    found, wanted = forms(model), forms(wanted)
    wrong = sorted(n for n in found | wanted if found.get(n) != wanted.get(n))
    if wrong:
        raise UserError(
            f"{file}: {len(wrong)} tensors are not those of its network, such as "
            f"{wrong[0]}: {found.get(wrong[0])} for {wanted.get(wrong[0])}"
        )


@partial(inference_jit, static_argnums=0)
def _restore(
    network: BlindNetwork,
    variables: dict[str, Any],
    lr: Array,
    privileged: Array | None,
) -> Array:
    return 255 * network.apply(variables, lr, privileged).sr
