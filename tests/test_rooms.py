"""Imports between the package's rooms flow one way.

A room is a subpackage or a module directly in the package.
"""

import ast
import re
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
FREE = {"atomic", "errors", "target", "typed"}
FOUNDATION = {"imaging", "networks"}
ALLOWED = {
    "atomic": set(),
    "errors": set(),
    "config_files": set(),
    "target": set(),
    "typed": set(),
    "compilation": set(),
    "imaging": set(),
    "networks": set(),
    "locks": set(),
    "data": {"imaging", "locks"},
    "methods": FOUNDATION,
    "spec": FOUNDATION | {"methods"},
    "models": FOUNDATION | {"compilation", "methods", "spec"},
    "inference": FOUNDATION | {"compilation", "locks", "methods", "models", "spec"},
    "evaluation": FOUNDATION
    | {"compilation", "inference", "methods", "models", "spec"},
    "training": FOUNDATION
    | {"compilation", "data", "evaluation", "locks", "methods", "models", "spec"},
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
    | {"interop", "methods", "models", "parity", "training"},
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


# Programs of their own, which run in the process of a published one.
PROGRAMS = ("lightbsr_jax.parity.peers", "lightbsr_jax.parity.program")


@pytest.mark.parametrize("module", MODULES)
def test_commands_alone_read_arguments_and_print(module: str) -> None:
    """The other rooms take typed values and return results."""
    if room(module) in ("cli", "commands") or module in PROGRAMS:
        return
    source = MODULES[module].read_text()
    assert "argparse" not in imported_names(source)
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
    assert "print" not in names


BENCHMARKS = sorted((PACKAGE.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize(
    "path", [*MODULES.values(), *BENCHMARKS], ids=lambda path: path.stem
)
def test_one_module_asks_for_the_platform(path: Path) -> None:
    """So all programs can be compiled for devices that are elsewhere."""
    assert ("default_backend" in path.read_text()) == (path.stem == "target")


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
    """Shared code is in `helpers`; only pytest imports `conftest`."""
    imported = imported_names(TESTS[name].read_text())
    others = {n for n in imported if n.startswith("test_") or n == "conftest"}
    assert not others


# Files outside methods/, parity/ and the published figures whose code still names a
# method. The set only shrinks. (A docstring may say where a formula comes from.)
NAMING = {"commands.compare", "commands.convert"}  # their help
METHOD = re.compile("LightBSR|[Kk][Dd][Ss][Rr]|[Dd][Aa][Ss][Rr]")
PROGRAM = "LightBSR in JAX"


def code(source: str) -> str:
    """A file without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        match body:
            case [ast.Expr(value=ast.Constant()), *_]:
                body[0] = ast.Pass()
    return ast.unparse(tree)


def names_a_method(source: str) -> bool:
    return METHOD.search(code(source).replace(PROGRAM, "")) is not None


def test_names_are_found() -> None:
    assert names_a_method("x = 1\nif method == 'kdsr': x = DASR(x)")
    assert not names_a_method('"""As KDSR does."""\nx = 1  # of DASR')


@pytest.mark.parametrize("module", MODULES)
def test_only_methods_name_a_method(module: str) -> None:
    place = module.removeprefix(f"{NAME}.")
    at_home = room(module) in {"methods", "parity"} or place == "evaluation.published"
    if not at_home:
        assert names_a_method(MODULES[module].read_text()) == (place in NAMING)


def test_weights_and_pictures_need_no_training() -> None:
    """`models` and `inference` reach nothing of `training`, by however many imports."""
    reached = {"models", "inference"}
    while more := {r for room in reached for r in ALLOWED[room]} - reached:
        reached |= more
    assert "imaging" in reached  # which shows that something is followed
    assert not reached & {"training", "data", "interop", "parity", "commands"}


# Where fields are read out of a config; all else is given a ModelSpec or its values.
READS_CONFIGS = ("spec.py", "config_files.py", "training/", "evaluation/config.py")


def config_reads(source: str) -> list[int]:
    """The lines that read a field of a `config`: .get(...), [...] and `in`."""

    def is_config(node: ast.expr) -> bool:
        name = getattr(node, "id", None) or getattr(node, "attr", None)
        key = getattr(getattr(node, "slice", None), "value", None)
        return "config" in (name, key)

    lines = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=value, attr="get")):
                found = is_config(value)
            case ast.Subscript(value=value):
                found = is_config(value)
            case ast.Compare(ops=[ast.In() | ast.NotIn()], comparators=[value]):
                found = is_config(value)
            case _:
                found = False
        if found:
            lines.append(node.lineno)
    return sorted(lines)


def test_reads_of_configs_are_found() -> None:
    source = """
config.get("prior", True)
found = self.config["scale"]
"contrast" in config and "ema" not in about["config"]
about["config"]["role"]
config.scale, other.get("x"), about["config"], read(config)
"""
    assert config_reads(source) == [2, 3, 4, 4, 5]


@pytest.mark.parametrize("module", MODULES)
def test_configs_are_read_in_one_place(module: str) -> None:
    path = MODULES[module].relative_to(PACKAGE).as_posix()
    if not path.startswith(READS_CONFIGS):
        assert not config_reads(MODULES[module].read_text())
