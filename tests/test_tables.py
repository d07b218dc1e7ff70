"""Scores as tables, with the paper's figures between."""

import math

import pytest

from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import cases, html, published, run, tables
from lightbsr_jax.evaluation.benchmark import Score
from lightbsr_jax.evaluation.findings import Findings
from lightbsr_jax.evaluation.restorers import Contender
from lightbsr_jax.methods.registry import METHODS

SETTING_1 = cases.make(1)
BICUBIC = [Contender("bicubic", "bicubic")]
STUDENT = Contender("LightBSR", "lightbsr", "student", 3_260_000)
TEACHER = Contender("LightBSR teacher", "lightbsr", "teacher")


def scores(method: str, benchmark: str, **psnr: float) -> list[Score]:
    """Of the images a, b, ... in setting 1's cases: 2 dB less with each sigma."""
    return [
        Score(method, benchmark, image, case.label, value - 2 * step, 0.8 - 0.1 * step)
        for image, value in psnr.items()
        for step, case in enumerate(SETTING_1)
    ]


def test_rows_stand_beside_the_papers() -> None:
    found = scores("bicubic", "Set5", a=20, b=21)
    found += scores("LightBSR", "Set5", a=30, b=32)
    (table,) = tables.make(found, SETTING_1, scale=4, contenders=[*BICUBIC, STUDENT])
    assert table.title == "Set5"
    assert table.columns == ("sigma 1.2", "sigma 2.4", "sigma 3.6", "mean")
    labels = [row.label for row in table.rows]
    assert labels[:3] == ["Bicubic (paper)", "bicubic", "IKC (paper)"]
    assert labels[-2:] == ["LightBSR (paper)", "LightBSR"]
    rows = dict(zip(labels, table.rows, strict=True))
    assert rows["bicubic"].psnr == pytest.approx((20.5, 18.5, 16.5, 18.5))
    assert rows["LightBSR"].psnr == pytest.approx((31, 29, 27, 29))
    assert rows["LightBSR"].ssim == pytest.approx((0.8, 0.7, 0.6, 0.7))
    assert rows["LightBSR (paper)"].psnr == pytest.approx((32.47, 32.17, 31.06, 31.9))
    sizes = [rows[label].parameters for label in ("bicubic", "LightBSR", "DAN (paper)")]
    assert sizes == [None, 3.26, 4.3]

    (table,) = tables.make(found, SETTING_1, scale=2, contenders=[*BICUBIC, STUDENT])
    assert [row.label for row in table.rows] == ["bicubic", "LightBSR"]
    contenders = [*BICUBIC, STUDENT]
    (table,) = tables.make(
        found, SETTING_1, scale=4, contenders=contenders, paper=False
    )
    assert [row.label for row in table.rows] == ["bicubic", "LightBSR"]


def test_a_table_is_a_benchmark_at_a_noise_level() -> None:
    """Table 4, with a kernel that the paper does not print."""
    kernels = ((2.0, 0.5, 0.0), (2.0, 0.2, 0.0))
    tested = cases.make(2, kernels=kernels, noise_levels=[5, 15])
    found = [
        Score("bicubic", benchmark, "a", case.label, 20.0 + step, 0.5)
        for benchmark in ("B100", "mine")
        for step, case in enumerate(tested)
    ]
    made = tables.make(found, tested, scale=4, contenders=BICUBIC)
    titles = ["B100, noise 5", "B100, noise 15", "mine, noise 5", "mine, noise 15"]
    assert [table.title for table in made] == titles
    rows = {row.label: row for row in made[0].rows}
    kernels = ("(2, 0.5, 0)", "(2, 0.2, 0)")
    assert made[0].columns == (*kernels, "mean of the paper's")
    assert made[1].columns == (*kernels, "mean")
    assert made[0].kernels == made[1].kernels == kernels
    assert rows["LightBSR (paper)"].psnr == (26.82, None, 26.82)
    assert rows["bicubic"].psnr == (20, 21, 20)  # the mean is over the paper's kernel
    assert [row.psnr for row in made[1].rows] == [(22, 23, 22.5)]
    alone = tables.make(found, tested, scale=4, contenders=BICUBIC, paper=False)
    assert [row.psnr for row in alone[0].rows] == [(20, 21, 20)]  # as beside the paper


def test_a_teacher_stands_beside_the_ablations() -> None:
    found = scores("LightBSR teacher", "Set14", a=28)
    (table,) = tables.make(found, SETTING_1, scale=4, contenders=[TEACHER])
    rows = {row.label: row for row in table.rows}
    assert rows["M1, no modulation (paper)"].psnr == (None, None, None, 27.01)
    assert len(rows) == 11 + 4 + 7 + 1
    fewer = tables.make(
        [score for score in found if score.case != "sigma 1.2"],
        SETTING_1[1:],
        scale=4,
        contenders=[TEACHER],
    )
    assert len(fewer[0].rows) == 11 + 1  # their mean would be another one


def test_figures_beside_psnr_have_names_and_means() -> None:
    """Wherever a row stands that the paper prints, and where an image has none."""
    contenders = BICUBIC
    known = SETTING_1
    scores = [
        Score("bicubic", "Set5", image, case.label, 20.0, 0.5, niqe)
        for case in known
        for image, niqe in (("a", 4.0), ("b", 6.0), ("small", None))
    ]
    (table,) = tables.make(scores, known, scale=4, contenders=contenders)
    assert table.rows[-1].measured is False  # the paper's
    assert table.figures == ("PSNR (dB)", "SSIM", "NIQE")
    text = tables.markdown(table)
    assert "PSNR (dB) / SSIM / NIQE" in text and "20.00 / 0.5000 / 5.0000" in text
    small = [s._replace(benchmark="small") for s in scores if s.image == "small"]
    both = tables.make(small + scores, known, scale=4, contenders=contenders)
    page = html._tables(Findings(contenders[0], "", [], both, [], {}, {}))
    assert "PSNR (dB), and below it SSIM, NIQE, measured here" in page


def test_means_of_all_methods_are_over_the_same_images() -> None:
    """A flat image may have a NIQE after one method alone."""
    case = SETTING_1[0]
    found = [
        Score(method, "mine", image, case.label, 20.0, 0.5, niqe)
        for method, image, niqe in (
            ("bicubic", "a", 4.0),
            ("bicubic", "flat", None),
            ("LightBSR", "a", 3.0),
            ("LightBSR", "flat", 9.0),
        )
    ]
    contenders = [*BICUBIC, STUDENT]
    (table,) = tables.make(found, [case], scale=4, contenders=contenders)
    assert [row.beside["NIQE"] for row in table.rows] == [(4.0,), (3.0,)]


def test_markdown() -> None:
    found = scores("bicubic", "mine", a=math.inf)[:1]
    (table,) = tables.make(found, SETTING_1[:1], scale=4, contenders=BICUBIC)
    assert tables.markdown(table) == (
        "mine (1 image): PSNR (dB) / SSIM\n\n"
        "| method      | sigma 1.2    |\n"
        "| ----------- | -----------: |\n"
        "| **bicubic** | inf / 0.8000 |\n"
    )
    found = scores("bicubic", "Set5", a=20)
    text = tables.markdown(*tables.make(found, SETTING_1, scale=4, contenders=BICUBIC))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "| DCLS (paper) | 32.35 | 32.19 | 31.14 | 31.89 | 13.60 |" in lines


def test_the_paper_names_every_method_that_can_be_measured() -> None:
    printed = {row.method for row in published.TABLE_3}
    titles = {key: m.title for key, m in METHODS.items() if m.title in printed}
    assert {"bicubic": "Bicubic", **titles} == published.NAMES


def test_a_name_of_ones_own_stands_below_the_method() -> None:
    """The place depends on the method, not on the name."""
    own = Contender("mine", "kdsr", "student")
    found = scores("mine", "Set5", a=30)
    (table,) = tables.make(found, SETTING_1, scale=4, contenders=[own])
    labels = [row.label for row in table.rows]
    assert labels[labels.index("mine") - 1] == "KDSR (paper)"


def test_networks_of_one_method_keep_their_order() -> None:
    """Directly below the paper's row; others stand last, without it all as given."""
    other, second = Contender("Lanczos", "Lanczos"), Contender("second", "lightbsr")
    own = [other, STUDENT, Contender("mine", "kdsr"), second]
    found = [score for one in own for score in scores(one.name, "Set5", a=30)]
    (table,) = tables.make(found, SETTING_1, scale=4, contenders=own)
    labels = [row.label for row in table.rows]
    assert labels[-4:] == ["LightBSR (paper)", "LightBSR", "second", "Lanczos"]
    (table,) = tables.make(found, SETTING_1, scale=2, contenders=own)
    assert [row.label for row in table.rows] == [one.name for one in own]


def test_names_do_not_break_markdown() -> None:
    assert tables.escaped("a|b_c<img>.png\n") == r"a\|b\_c\<img\>.png?"


def test_sr_images_of_two_methods_have_two_folders() -> None:
    run._check_slugs(["Bicubic", "a b", "a-c"])
    with pytest.raises(UserError, match=r"'a b' and 'a-b' would both be in a-b"):
        run._check_slugs(["Bicubic", "a b", "a-b"])
