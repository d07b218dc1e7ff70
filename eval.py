"""Measures networks, or bicubic alone, on benchmark folders by the paper's protocol.

python eval.py --workdir=runs/student --benchmarks=data/Set5,data/Set14
python eval.py --method=bicubic --benchmarks=data/Set5 --report=results/bicubic

On a cluster, one such command for each process, with --distributed: they share the
images, and the first reports.
"""

from pathlib import Path

from absl import flags

from lightbsr_jax import command_line

CONFIG = command_line.define_config(
    str(Path(__file__).parent / "configs" / "benchmark.py")
)
METHOD = flags.DEFINE_enum(
    "method", "network", ("network", "bicubic"), "What to measure."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the training run to measure; or several, with commas."
)
WEIGHTS = flags.DEFINE_string(
    "weights", None, "Weights that come with the program, by name, or a file of some."
)
BENCHMARKS = flags.DEFINE_string(
    "benchmarks", "", "Folders of HR images, separated by commas; else the config's."
)
REPORT = flags.DEFINE_string(
    "report", None, "Folder for the report, by default WORKDIR/evaluation/settingN."
)
DUMP_LR = flags.DEFINE_string(
    "dump-lr", None, "Folder for the LR images, as DIR/BENCHMARK/CASE/IMAGE.png."
)
LR_DIR = flags.DEFINE_string(
    "lr-dir", None, "Folder to read the LR images from, in place of making them."
)
command_line.define_processes()


def main() -> None:
    command_line.join_processes()
    from lightbsr_jax import compilation
    from lightbsr_jax.errors import UserError
    from lightbsr_jax.evaluation.run import run
    from lightbsr_jax.imaging import files
    from lightbsr_jax.models import packed

    workdirs = files.split_folders(WORKDIR.value) if WORKDIR.value else []
    sources = [Path(workdir) for workdir in workdirs]
    if WEIGHTS.value:
        sources.append(packed.check_name(WEIGHTS.value))
    if METHOD.value == "bicubic" and sources:
        raise UserError("--method=bicubic measures no network: leave that flag out")
    if METHOD.value == "network" and not sources:
        raise UserError(
            "no network to measure: give --workdir=FOLDER, of a training run, or "
            "--weights=NAME, of weights that come with the program; train one with "
            "train.py, or measure --method=bicubic, which needs none"
        )
    compilation.keep_compiled_programs()
    run(
        CONFIG.value,
        sources=sources,
        folders=files.split_folders(BENCHMARKS.value) if BENCHMARKS.value else [],
        report_folder=REPORT.value,
        dump_lr=DUMP_LR.value,
        lr_folder=LR_DIR.value,
    )


if __name__ == "__main__":
    command_line.run(main)
