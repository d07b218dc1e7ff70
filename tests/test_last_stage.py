"""KDSR's last stage against the published program, whose outputs are recorded.

The recording beside this file holds outputs of the folder KDSR-GAN for tiny networks
with seeded weights. To make it anew, with a checkout and PyTorch:

    PYTHONPATH=.:tests python tests/test_last_stage.py KDSR/KDSR-GAN
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from lightbsr_jax.parity import case as cases
from lightbsr_jax.parity import compare, last_stage, report
from lightbsr_jax.parity.case import Arrays, Case

RECORDING = Path(__file__).with_name("last_stage_recording.npz")
KEPT = 32  # numbers of each array, and a few more
# Layers of the generator are compared in test_peers.py.
PARTS = ("discriminator/", "student/step64/", "student/trace/")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("highest_precision")]


def make_case() -> Case:
    """Two steps of tiny networks."""
    return cases.make(
        scale=4,
        setting=1,
        method="kdsr",
        network={"features": 8, "blocks": 1, "residual_blocks": 1},
        size=(8, 12),
        crops=1,
        stages=(2, 2),
        discriminator=4,
        widths=(2, 3, 4, 5, 6),
    )


def thinned(results: Arrays) -> Arrays:
    return {
        name: array.ravel()[:: max(1, array.size // KEPT)]
        for name, array in results.items()
        if name.startswith(PARTS)
    }


def ours(case: Case) -> Arrays:
    return thinned(last_stage.passes(case) | last_stage.wide_steps(case))


def test_updates_are_those_of_the_program() -> None:
    case, theirs = cases.load(RECORDING)
    found = ours(case)
    rows = compare.table(found, theirs, cancels=False)
    table = report.table(rows)
    assert all(row.verdict == "ok" for row in rows), table
    assert len(rows) == 13, table
    # Other vectors of power iteration would be seen.
    name = "discriminator/trace/tensor/conv3.weight_u"
    changed = {**found, name: np.roll(found[name], 1)}
    verdicts = {r.kind.quantity: r.verdict for r in compare.table(changed, theirs)}
    assert verdicts["discriminator, trace in float64"].startswith("DIFFERS")


def test_published_sizes() -> None:
    """The generator's 18,846,083 parameters and 24 constants, and the discriminator's.

    The paper has 18.85 million.
    """
    stage = cases.LAST_STAGES["kdsr"]
    case = cases.make(
        scale=4, setting=1, method="kdsr", size=(8, 8), discriminator=stage.features
    )
    assert case.meta["stages"] == [2] * 6 and case.recipe.adam.b2 == 0.99
    student = case.below("weights/student")
    assert sum(tensor.size for tensor in student.values()) == 18_846_083 + 24
    own = case.below("weights/discriminator")
    trained = [x.size for n, x in own.items() if not n.endswith(("_u", "_v"))]
    assert sum(trained) == 4_376_897


if __name__ == "__main__":
    theirs = compare.run_reference(sys.argv[1], make_case())
    cases.save(RECORDING, make_case(), thinned(theirs))
