"""Write the networks of the page: python -m page.models FOLDER NAME [NAME ...].

A NAME is one of shipped weights, or another source of `lightbsr upscale --weights`.
"""

import json
import sys
from pathlib import Path

from lightbsr_jax.errors import UserError
from lightbsr_jax.inference.upscaler import BORDER
from lightbsr_jax.interop import parts
from lightbsr_jax.models import packed
from lightbsr_jax.models.load import load_for_pictures


def main(folder: Path, sources: list[str]) -> None:
    """Writes NAME.model for each source, and weights.json, which lists them.

    Raises UserError if two sources have the same name.
    """
    names = [Path(source).stem for source in sources]
    for name, source in zip(names, sources, strict=True):
        if names.count(name) > 1:
            raise UserError(f"{source}: two weights are named {name}: rename one")
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for name, source in zip(names, sources, strict=True):
        model = load_for_pictures(source)
        (folder / f"{name}.model").write_bytes(parts.write(model, border=BORDER))
        about = {"name": name, "purpose": packed.purpose(source), "scale": model.scale}
        listed.append(about)
    (folder / "weights.json").write_text(json.dumps(listed), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
