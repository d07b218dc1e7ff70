"""Imports between the package's rooms flow one way.

A room is a subpackage or a module directly in the package.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightbsr_jax

PACKAGE = Path(lightbsr_jax.__file__).parent
NAME = lightbsr_jax.__name__
MODULES = {
    ".".join([NAME, *path.relative_to(PACKAGE).with_suffix("").parts]): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# What each room may import beside itself and these.
FREE = {"atomic", "errors", "typed"}
FOUNDATION = {"imaging", "networks"}
ALLOWED = {
    "atomic": set(),
    "errors": set(),
    "config_files": set(),
    "typed": set(),
    "compilation": set(),
    "imaging": set(),
    "networks": set(),
    "locks": set(),
    "data": {"imaging", "locks"},
    "methods": FOUNDATION,
    "spec": FOUNDATION | {"methods"},
    "models": FOUNDATION | {"compilation", "methods", "spec"},
    "inference": FOUNDATION | {"compilation", "methods", "models", "spec"},
    "evaluation": FOUNDATION | {"compilation", "methods", "models", "spec"},
    "training": FOUNDATION
    | {"compilation", "data", "evaluation", "locks", "methods", "models", "spec"},
    "pack": {"atomic", "methods", "models", "spec", "training"},
    "interop": FOUNDATION | {"methods", "models", "spec", "training"},
    "parity": FOUNDATION
    | {"evaluation", "interop", "methods", "models", "spec", "training"},
    "commands": {
        "compilation",
        "config_files",
        "data",
        "evaluation",
        "imaging",
        "inference",
    }
    | {"interop", "methods", "models", "pack", "parity", "training"},
    "cli": {"commands"},
    "__main__": {"cli"},
}


def room(module: str) -> str:
    """lightbsr_jax.imaging.files is in imaging; "" is the package itself."""
    name = module.removeprefix(NAME).split(".")[1:2]
    return name[0] if name and name != ["__init__"] else ""


def imported_rooms(source: str) -> Iterator[str]:
    """The rooms that a file imports from, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports within the package are absolute"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            if module.split(".")[0] == NAME and room(module) != "":
                yield room(module)


def test_imports_are_found() -> None:
    source = """
import numpy, lightbsr_jax.data.sources
from lightbsr_jax import models, imaging
import lightbsr_jax
from lightbsr_jax_extras import other
def f():
    from lightbsr_jax.training.steps import AXIS
"""
    found = {"data", "models", "imaging", "training"}
    assert set(imported_rooms(source)) == found


@pytest.mark.parametrize("module", MODULES)
def test_imports_flow_one_way(module: str) -> None:
    own = room(module)
    imported = set(imported_rooms(MODULES[module].read_text()))
    if own == "":
        assert imported <= {"imaging", "inference", "models"}  # when they are used
    else:
        allowed = ALLOWED[own] | FREE | {own}
        assert imported <= allowed, f"{module} may not import {imported - allowed}"


def test_no_room_imports_in_a_circle() -> None:
    """`ALLOWED` has an order in which every room stands on earlier ones."""
    order: list[str] = []
    while len(order) < len(ALLOWED):
        ready = [r for r in ALLOWED if r not in order and ALLOWED[r] <= set(order)]
        assert ready, f"a circle among {set(ALLOWED) - set(order)}"
        order += ready


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[module].read_text()))


TESTS = {path.stem: path for path in sorted(Path(__file__).parent.rglob("*.py"))}


def imported_names(source: str) -> set[str]:
    """The first parts of all modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("name", TESTS)
def test_no_test_imports_another(name: str) -> None:
    """What several of them need is in `helpers`; `conftest` is pytest's alone."""
    imported = imported_names(TESTS[name].read_text())
    others = {n for n in imported if n.startswith("test_") or n == "conftest"}
    assert not others
