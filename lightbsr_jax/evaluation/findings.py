"""The results of one measurement, and the tables and captions of its report."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from lightbsr_jax.evaluation import published
from lightbsr_jax.evaluation.benchmark import Score
from lightbsr_jax.evaluation.cost import SIDE, Cost
from lightbsr_jax.evaluation.idr import NEIGHBOURS, Separation
from lightbsr_jax.evaluation.pictures import Example
from lightbsr_jax.evaluation.restorers import BICUBIC, Contender
from lightbsr_jax.evaluation.tables import Table

Lines = list[list[str]]  # of a table, the header first


class Network(NamedTuple):
    """Cost and IDR separation of a network."""

    cost: Cost
    separation: Separation | None  # None if there are too few images


class Findings(NamedTuple):
    """Results for one method, for bicubic and possibly for other networks."""

    contender: Contender
    title: str
    scores: list[Score]
    tables: list[Table]
    examples: list[Example]
    networks: dict[str, Network]  # by name; the contender first, if it is a network
    about: dict[str, Any]  # how it was measured, JSON-able

    @property
    def method(self) -> str:
        """The contender's name in scores and tables."""
        return self.contender.name

    @property
    def cost(self) -> Cost | None:
        """The cost of the method, if it is a network."""
        return self.networks[self.method].cost if self.networks else None

    @property
    def separation(self) -> Separation | None:
        """The IDR separation of the method, if it was measured."""
        return self.networks[self.method].separation if self.networks else None


class Headline(NamedTuple):
    """A figure with its label and the figures to compare it with."""

    label: str
    value: str
    details: list[str]


def headlines(found: Findings) -> list[Headline]:
    """The mean PSNR of each table, compared with bicubic and with the paper."""
    paper = published.NAMES.get(found.contender.method)
    lines = []
    for table in found.tables:
        means = _means(table)
        ours, details = means[found.method, True], []
        if found.method != BICUBIC:
            bicubic = means[BICUBIC, True]
            gain = 0.0 if ours == bicubic else ours - bicubic  # both may be infinite
            details.append(f"{gain:+.2f} over bicubic")
        if (theirs := means.get((paper, False))) is not None:
            details.append(f"{paper} in the paper: {theirs:.2f}")
        label = f"{table.title}, {table.columns[-1]}"
        lines.append(Headline(label, f"{ours:.2f} dB", details))
    return lines


def mean_psnr(tables: Sequence[Table]) -> dict[tuple[str | None, bool], float]:
    """PSNR averaged over the tables, by row key, for the rows that all tables have."""
    means = [_means(table) for table in tables]
    return {
        key: sum(mean[key] for mean in means) / len(means)
        for key in means[0]
        if all(key in mean for mean in means)
    }


def _means(table: Table) -> dict[tuple[str | None, bool], float]:
    """PSNR in the last column by row key, for the rows that have one."""
    last = {row.key: row.psnr[-1] for row in table.rows}
    return {key: psnr for key, psnr in last.items() if psnr is not None}


def cost_lines(found: Findings) -> Lines:
    """Size, operations, seconds and PSNR of the networks and of the paper's methods."""
    gflops = {row.method: row.gflops for row in published.TABLE_3}
    psnr = mean_psnr(found.tables)
    header = ["method", "parameters (M)", "operations (G)", "seconds", "mean PSNR (dB)"]
    lines = [header]
    for row in found.tables[0].rows:
        if row.key not in psnr or not row.parameters:
            continue
        operations, seconds = gflops.get(row.method), ""
        if row.measured:
            cost = found.networks[row.method].cost
            operations = cost.multiply_accumulates / 1e9
            seconds = f"{cost.seconds:.3g}"
        lines.append(
            [
                row.label,
                f"{row.parameters:.2f}",
                f"{operations:.2f}" if operations else "",
                seconds,
                f"{psnr[row.key]:.2f}",
            ]
        )
    return lines


def cost_note(found: Findings) -> str:
    """Caption of `cost_lines`; empty if no network was measured."""
    if found.cost is None:
        return ""
    return (
        f"Operations are multiply-accumulates of convolutions and products at one "
        f"{SIDE}x{SIDE} low-resolution image (the paper calls them FLOPs); seconds are "
        f"the faster of two runs on it, without compilation, on {found.cost.device}. "
        f"PSNR is the mean over {', '.join(table.title for table in found.tables)}."
    )


def separation_lines(found: Findings) -> Lines:
    """Silhouette, neighbours and probes of trained and of untrained networks."""
    if found.separation is None:
        return []
    rows = []
    for name, (_, separation) in found.networks.items():
        if separation is None:
            continue
        untrained = "untrained" if name == found.method else f"{name}, untrained"
        rows += [(name, separation.trained), (untrained, separation.untrained)]
    # Degradations of one setting may have traits that those of another one lack.
    traits = dict.fromkeys(trait for _, numbers in rows for trait in numbers.probes)
    lines = [["IDR", "silhouette", f"{NEIGHBOURS} neighbours"]]
    lines[0] += [f"R² of {trait}" for trait in traits]
    for name, numbers in rows:
        line = [name, f"{numbers.silhouette:.3f}", f"{numbers.neighbours:.1%}"]
        probes = map(numbers.probes.get, traits)
        lines.append(line + ["" if r2 is None else f"{r2:.3f}" for r2 in probes])
    return lines


def separation_note(found: Findings) -> str:
    """Caption of `separation_lines`; empty if there are none."""
    separation = found.separation
    if separation is None:
        return ""
    return (
        f"{separation.tiles} tiles of {separation.images} images, each under "
        f"{len(separation.cases)} degradations. Silhouette: 1 if the degradations form "
        "clusters far apart, 0 if they overlap. Neighbours: how often the majority of "
        f"the {NEIGHBOURS} nearest IDRs, of other images, has the same degradation; "
        f"chance is {1 / len(separation.cases):.0%}. R²: how well a linear function of "
        "the IDR, fitted on other images, predicts the width of random kernels, their "
        "stretch along columns and along the diagonal, and the noise level: 1 is "
        "perfect, 0 is no better than the mean. Untrained: the same estimator with "
        "random weights."
    )


def notes(found: Findings) -> Lines:
    """Terms and explanations of how the figures were measured."""
    about = found.about
    programs = about["compilation"]
    return [
        ["Convention", about["convention"]],
        [
            "Low-resolution images",
            about["lr"],
        ],
        [
            "Work",
            f"{len(found.scores)} scores in {about['seconds']:.0f} s on "
            f"{about['devices']}; {programs['programs']} programs compiled in "
            f"{programs['seconds']:.0f} s, {programs['from_cache']} of them read from "
            "the cache",
        ],
        ["Versions", ", ".join(f"{k} {v}" for k, v in about["versions"].items())],
    ]
