"""The documentation as a site: `make docs` writes it to docs/_build."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import lightbsr_jax  # noqa: E402

project = "lightbsr_jax"
copyright = "the authors of lightbsr_jax"
version = release = lightbsr_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
# Links to files outside of docs/ are downloads in the site.
suppress_warnings = ["myst.xref_missing"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
add_module_names = False

html_theme = "furo"
html_title = "lightbsr_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
