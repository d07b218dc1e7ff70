"""The published figures against the paper's tables, typed once more in Markdown."""

import re
from pathlib import Path

import pytest

from lightbsr_jax.evaluation import published
from lightbsr_jax.imaging import settings

SPECS = Path(__file__).parents[2] / "shared" / "spec"
METHOD = SPECS / "method.md"
REAL_WORLD = SPECS / "realworld.md"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def method_text() -> str:
    if not METHOD.exists():
        pytest.skip("needs the paper's tables in Markdown (../shared/spec/method.md)")
    return METHOD.read_text()


def table_rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the Markdown table that follows a heading."""
    lines = text[text.index(heading) :].splitlines()
    table = []
    for line in lines[1:]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            break
    return table[2:]


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in re.findall(r"\d+(?:\.\d+)?", text))


def millions(text: str) -> float | None:
    units = {"K": 1e-3, "M": 1.0}
    parts = [float(part[:-1]) * units[part[-1]] for part in text.split("+") if part]
    return sum(parts) if parts else None


def test_table_3(method_text):
    rows = table_rows(method_text, "Published PSNR, x4 (Table 3")
    assert len(rows) == len(published.TABLE_3) == 11
    for cells, row in zip(rows, published.TABLE_3, strict=True):
        assert cells[0] == row.method
        assert millions(cells[1]) == row.parameters
        assert (float(cells[2]) if cells[2] else None) == row.gflops
        psnr = (row.set5, row.set14, row.b100, row.urban100)
        assert tuple(numbers(cell) for cell in cells[3:]) == psnr


def test_table_4(method_text):
    rows = table_rows(method_text, "Published PSNR on B100, setting 2 (Table 4")
    assert len(rows) == len(published.TABLE_4) == 16
    for cells, row in zip(rows, published.TABLE_4, strict=True):
        assert (float(cells[0]), cells[1]) == (row.noise, row.method)
        assert millions(cells[2]) == pytest.approx(row.parameters, abs=1e-9)
        assert numbers(cells[3]) == row.b100


def real_world_rows(text: str, heading: str) -> list[tuple[str, list[float]]]:
    rows = [cells for cells in table_rows(text, heading) if "not yet" not in cells[-1]]
    return [(c[0].removesuffix(" (paper)"), [*numbers(" ".join(c[1:]))]) for c in rows]


def test_documented_real_world_table_of_kdsr() -> None:
    if not REAL_WORLD.exists():
        pytest.skip("needs KDSR's table (../shared/spec/realworld.md)")
    text = (ROOT / "docs" / "results.md").read_text()
    rows = real_world_rows(text, "## Networks with a GAN loss")
    assert rows == real_world_rows(REAL_WORLD.read_text(), "KDSR's results (")
    assert [name for name, _ in rows][-1] == "KDSR-GAN" and len(rows) == 4


def test_ablations(method_text):
    text = " ".join(method_text[method_text.index("Ablations (average") :].split())
    for table in (published.TABLE_1, published.TABLE_2):
        for row in table:
            # The four figures are the first decimals after the row's name.
            after = text[text.index(f"{row.name} ") :]
            four = tuple(float(n) for n in re.findall(r"\d\d\.\d\d", after)[:4])
            assert four == row[2:], row.name


def test_cases_of_the_protocol(method_text):
    protocol = " ".join(method_text[method_text.index("- Setting 1: sigma") :].split())
    kernels = re.findall(r"\((\d[^()]*, [^()]*, [^()]*)\)", protocol)[:9]
    assert tuple(numbers(kernel) for kernel in kernels) == settings.KERNELS
    sigmas = re.search(r"sigma in \{([^}]*)\}", protocol).group(1)
    assert numbers(sigmas) == settings.SIGMAS
    noise = re.search(r"noise (\d+) and (\d+)", protocol).groups()
    assert tuple(float(level) for level in noise) == settings.NOISE_LEVELS


@pytest.mark.parametrize(
    ("benchmark", "noise", "method", "kernel", "expected"),
    [
        ("Set14", "", "Bicubic", "sigma 2.4", 24.39),
        ("Urban100", "", "LightBSR", "sigma 3.6", 25.31),
        ("B100", "", "LightBSR", "sigma 1.2", 27.77),
        ("B100", "noise 5", "LightBSR", "(2, 0.5, 0)", 26.82),
        ("B100", "noise 10", "DnCNN+DAN", "(4, 4, 180)", 23.54),
    ],
)
def test_rows(benchmark, noise, method, kernel, expected):
    rows = {row.method: row for row in published.rows(benchmark, noise)}
    assert len(rows) == (8 if noise else 11)
    assert rows[method].psnr[kernel] == expected
    assert rows["LightBSR"].parameters == (3.09 if noise else 3.1)


@pytest.mark.parametrize(
    ("benchmark", "noise"),
    [("Manga109", ""), ("Set5", "noise 5"), ("B100", "noise 15")],
)
def test_where_the_paper_prints_nothing(benchmark, noise):
    assert published.rows(benchmark, noise) == []
