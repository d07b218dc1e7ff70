"""Write the networks of the page: python -m page.models FOLDER NAME [NAME ...].

A NAME is one of shipped weights, or another source of `lightbsr upscale --weights`.
"""

import json
import sys
from pathlib import Path

from lightbsr_jax.inference.upscaler import BORDER
from lightbsr_jax.interop import parts
from lightbsr_jax.models import packed
from lightbsr_jax.models.load import load_for_pictures


def main(folder: Path, sources: list[str]) -> None:
    """Writes NAME.model for each source, and weights.json, which lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for source in sources:
        model, name = load_for_pictures(source), Path(source).stem
        (folder / f"{name}.model").write_bytes(parts.write(model, border=BORDER))
        about = {"name": name, "purpose": packed.purpose(source), "scale": model.scale}
        listed.append(about)
    (folder / "weights.json").write_text(json.dumps(listed), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
