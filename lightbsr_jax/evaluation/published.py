"""Published figures as plain data, all at x4: Tables 1 to 4 of the paper.

PSNR is in dB on luma. Parameters are in millions, complexity in what the paper calls
GFLOPs (multiply-accumulates in 1e9 at a 256x256 low-resolution input).
"""

from typing import NamedTuple

from lightbsr_jax.imaging.settings import (
    KERNELS,
    SIGMAS,
    anisotropic_name,
    isotropic_name,
    noise_name,
)

SCALE = 4
BENCHMARKS = ("Set5", "Set14", "B100", "Urban100")

# The paper's names of the methods that can be measured here as well.
NAMES = {"bicubic": "Bicubic", "dasr": "DASR", "kdsr": "KDSR", "lightbsr": "LightBSR"}
ABLATED = ("lightbsr", "teacher")  # the method and role of Tables 1 and 2

Triple = tuple[float, float, float]


class Isotropic(NamedTuple):
    """A row of Table 3: PSNR at each of `SIGMAS`, noise-free."""

    method: str
    parameters: float | None
    gflops: float | None
    set5: Triple
    set14: Triple
    b100: Triple
    urban100: Triple


class Anisotropic(NamedTuple):
    """A row of Table 4: PSNR on B100 at each of `KERNELS`, with noise."""

    noise: float
    method: str
    parameters: float
    b100: tuple[float, ...]


class Ablation(NamedTuple):
    """A row of Tables 1 and 2: the teacher's PSNR averaged over `SIGMAS`."""

    name: str
    description: str
    set5: float
    set14: float
    b100: float
    urban100: float


# fmt: off
TABLE_1 = (
    Ablation("T1", "without DRP and contrastive loss", 31.60, 28.25, 27.40, 25.69),
    Ablation("T2", "DRP only", 31.96, 28.45, 27.47, 25.94),
    Ablation("T3", "contrastive only", 31.75, 28.34, 27.43, 25.77),
    Ablation("T4", "both", 32.00, 28.49, 27.50, 26.02),
)

TABLE_2 = (
    Ablation("M1", "no modulation", 29.25, 27.01, 26.48, 24.21),
    Ablation("M2", "spatial only", 31.86, 28.43, 27.46, 25.87),
    Ablation("M3", "channel only", 31.92, 28.44, 27.47, 25.91),
    Ablation("M4", "both with IDR-CB", 32.00, 28.49, 27.50, 26.02),
    Ablation("M5", "without IDR-CB", 31.94, 28.42, 27.47, 25.93),
    Ablation("M4-", "M4 with IDRs spoilt by U(0, 1)", 28.15, 25.95, 25.79, 23.37),
    Ablation("M5-", "M5 with IDRs spoilt by U(0, 1)", 28.05, 25.89, 25.69, 23.26),
)

TABLE_3 = (
    Isotropic("Bicubic", None, None,
              (27.69, 25.99, 24.45), (25.60, 24.39, 23.25),
              (25.58, 24.67, 23.80), (22.73, 21.76, 20.84)),
    Isotropic("IKC", 5.3, 2876.30,
              (31.76, 30.35, 30.26), (28.44, 28.17, 26.63),
              (27.43, 27.28, 26.41), (25.63, 25.02, 24.07)),
    Isotropic("DAN", 4.3, 1250.38,
              (32.22, 31.96, 30.94), (28.65, 28.54, 27.68),
              (27.65, 27.58, 26.95), (26.20, 25.96, 25.08)),
    Isotropic("DCLS", 13.6, 496.72,
              (32.35, 32.19, 31.14), (28.66, 28.57, 27.78),
              (27.73, 27.65, 27.02), (26.50, 26.24, 25.34)),
    Isotropic("DASR", 5.8, 208.80,
              (31.92, 31.75, 30.59), (28.44, 28.28, 27.45),
              (27.52, 27.43, 26.83), (25.69, 25.44, 24.66)),
    Isotropic("IDMBSR", 4.2, None,
              (31.90, 31.78, 30.68), (28.50, 28.36, 27.60),
              (27.58, 27.51, 26.90), (25.91, 25.68, 24.91)),
    Isotropic("MRDA", 5.8, 386.25,
              (32.36, 32.11, 30.89), (28.67, 28.57, 27.62),
              (27.67, 27.58, 26.91), (26.26, 26.02, 25.08)),
    Isotropic("KDSR", 5.8, 258.14,
              (32.34, 32.13, 31.02), (28.66, 28.55, 27.81),
              (27.67, 27.59, 26.97), (26.29, 26.05, 25.20)),
    Isotropic("DSAT", 15.6, 895.03,
              (32.51, 32.00, 30.31), (28.77, 28.50, 27.51),
              (27.76, 27.66, 27.02), (26.43, 25.95, 24.89)),
    Isotropic("CDFormer-S", 11.9, 631.53,
              (32.36, 32.14, 31.07), (28.77, 28.60, 27.67),
              (27.74, 27.64, 27.00), (26.39, 26.09, 25.19)),
    Isotropic("LightBSR", 3.1, 206.16,
              (32.47, 32.17, 31.06), (28.82, 28.65, 27.79),
              (27.77, 27.69, 27.04), (26.50, 26.20, 25.31)),
)

TABLE_4 = (
    Anisotropic(5, "DnCNN+DAN", 0.65 + 4.33,
                (26.18, 26.14, 24.89, 24.64, 24.61, 24.52, 24.37, 24.01, 23.63)),
    Anisotropic(5, "DnCNN+DCLS", 0.65 + 13.63,
                (26.15, 26.12, 24.89, 24.66, 24.62, 24.52, 24.39, 24.03, 23.65)),
    Anisotropic(5, "DASR", 5.84,
                (26.60, 26.52, 25.87, 25.69, 25.64, 25.60, 25.48, 25.23, 24.85)),
    Anisotropic(5, "MRDA", 5.84,
                (26.73, 26.68, 25.98, 25.80, 25.77, 25.71, 25.59, 25.29, 24.82)),
    Anisotropic(5, "KDSR", 5.80,
                (26.73, 26.70, 26.02, 25.87, 25.83, 25.76, 25.65, 25.37, 24.94)),
    Anisotropic(5, "DSAT", 15.64,
                (26.71, 26.66, 25.95, 25.80, 25.74, 25.66, 25.55, 25.30, 24.85)),
    Anisotropic(5, "CDFormer-S", 11.86,
                (26.77, 26.69, 26.00, 25.85, 25.82, 25.75, 25.64, 25.34, 24.97)),
    Anisotropic(5, "LightBSR", 3.09,
                (26.82, 26.76, 26.06, 25.91, 25.87, 25.81, 25.70, 25.41, 25.05)),
    Anisotropic(10, "DnCNN+DAN", 0.65 + 4.33,
                (25.69, 25.63, 24.62, 24.42, 24.39, 24.29, 24.18, 23.89, 23.54)),
    Anisotropic(10, "DnCNN+DCLS", 0.65 + 13.63,
                (25.67, 25.62, 24.62, 24.43, 24.40, 24.29, 24.19, 23.91, 23.56)),
    Anisotropic(10, "DASR", 5.84,
                (26.02, 25.94, 25.27, 25.11, 25.08, 25.03, 24.93, 24.69, 24.33)),
    Anisotropic(10, "MRDA", 5.84,
                (26.12, 26.05, 25.36, 25.20, 25.18, 25.12, 25.01, 24.76, 24.36)),
    Anisotropic(10, "KDSR", 5.80,
                (26.11, 26.05, 25.38, 25.24, 25.21, 25.15, 25.05, 24.81, 24.46)),
    Anisotropic(10, "DSAT", 15.64,
                (26.07, 26.04, 25.29, 25.18, 25.14, 25.09, 24.97, 24.72, 24.36)),
    Anisotropic(10, "CDFormer-S", 11.86,
                (26.14, 26.06, 25.37, 25.22, 25.20, 25.15, 25.04, 24.78, 24.45)),
    Anisotropic(10, "LightBSR", 3.09,
                (26.18, 26.10, 25.41, 25.27, 25.24, 25.19, 25.08, 24.83, 24.53)),
)
# fmt: on


class Row(NamedTuple):
    """A method's published figures on one benchmark."""

    method: str
    parameters: float | None
    psnr: dict[str, float]  # by kernel's name


def rows(benchmark: str, noise: str) -> list[Row]:
    """The x4 rows on a benchmark, without noise ("") or with (such as "noise 5")."""
    if benchmark in BENCHMARKS and not noise:
        names = [isotropic_name(sigma) for sigma in SIGMAS]
        field = benchmark.lower()
        return [
            Row(
                row.method,
                row.parameters,
                dict(zip(names, getattr(row, field), strict=True)),
            )
            for row in TABLE_3
        ]
    names = [anisotropic_name(kernel) for kernel in KERNELS]
    return [
        Row(row.method, row.parameters, dict(zip(names, row.b100, strict=True)))
        for row in TABLE_4
        if benchmark == "B100" and noise_name(row.noise) == noise
    ]
