"""The package as a whole: what it offers, what it imports, and that no option is without effect."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import toml

import leco_plugin
from leco_plugin.config import schema, train

SOURCES = Path(leco_plugin.__path__[0])


def fields() -> list[tuple[str, str]]:
    """(model, field) of every settings model that a job is made of."""
    models = [one for one in vars(schema).values() if isinstance(one, type) and issubclass(one, schema.Frozen)]
    return [(model.__name__, name) for model in models for name in model.model_fields]


def trees(*, outside: str) -> Iterator[ast.AST]:
    """The syntax of every module of the package that is not in this folder."""
    for path in sorted(SOURCES.rglob("*.py")):
        if outside not in path.relative_to(SOURCES).parts:
            yield ast.parse(path.read_text("utf-8"))


def attributes(tree: ast.AST) -> set[str]:
    """Names of all attributes that are read in ``tree``."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.attr for node in nodes if isinstance(node.ctx, ast.Load)}


@pytest.fixture(scope="module")
def attributes_read() -> set[str]:
    """What is read outside config, and what the settings' own properties that are read there are made of."""
    read = set().union(*map(attributes, trees(outside="config")))
    parts = [ast.parse(Path(part.__file__ or "").read_text("utf-8")) for part in (schema, train)]
    for node in (node for part in parts for node in ast.walk(part)):
        if (
            isinstance(node, ast.FunctionDef)
            and node.name in read
            and "property" in map(ast.unparse, node.decorator_list)
        ):
            read |= attributes(node)
    return read


@pytest.mark.parametrize(("model", "name"), fields(), ids=[".".join(field) for field in fields()])
def test_every_option_is_read_somewhere(model, name, attributes_read):
    """An option that is parsed and never read would be a lie."""
    assert name in attributes_read


def test_the_output_folder_follows_its_two_options():
    """Straight into output_dir, or into a folder of the run's name."""
    pairs = (schema.PromptPair(target="", positive=""),)
    job = {"name": "a", "model": {"name_or_path": "builtin:tiny"}, "pairs": pairs}
    plain = schema.JobConfig.model_validate({**job, "training_folder": "somewhere"})
    straight = schema.JobConfig.model_validate({**job, "training_folder": "somewhere", "output_dir": "here"})
    assert plain.output_folder == Path("somewhere/a")
    assert straight.output_folder == Path("here")


def test_every_public_name_is_there():
    """And the errors are all children of LecoError."""
    for name in leco_plugin.__all__:
        assert hasattr(leco_plugin, name), name
    errors = [getattr(leco_plugin, name) for name in leco_plugin.__all__ if name.endswith("Error")]
    assert len(errors) > 3
    assert all(issubclass(error, leco_plugin.LecoError) for error in errors)


def test_the_package_is_installed_as_what_it_is():
    """The version is that of the package, and `leco` leads to the same function as ``python -m leco_plugin``."""
    project = toml.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["scripts"] == {"leco": "leco_plugin.commands.main:main"}
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "leco_plugin.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", leco_plugin.__version__)


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(tmp_path):
    """No tests and no caches; what the demo needs is there, and so is the command."""
    root = Path(__file__).parents[1]
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path)
    for name in ("leco_plugin", "converters"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    sources = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path]
    for stray in ("tests/test_it.py", "leco_plugin/__pycache__/errors.cpython-311.pyc", "benchmarks/__init__.py"):
        (tmp_path / stray).parent.mkdir()
        (tmp_path / stray).touch()
    # as pip does it, without the environment that it would download for that
    script = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    (tmp_path / "dist").mkdir()
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    with zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        about = wheel.read(f"leco_plugin-{leco_plugin.__version__}.dist-info/entry_points.txt").decode()
    expected = {path.relative_to(tmp_path).as_posix().removeprefix("converters/") for path in sources}
    assert held == expected
    assert "leco = leco_plugin.commands.main:main" in about


def test_an_error_shows_place_problem_and_fix():
    """``file:line: key: what``, each part where it is known."""
    from leco_plugin.errors import LecoError, Problem, Where

    full = Problem(Where(Path("a.toml"), 14, "targets[1].x"), "unknown key", "did you mean 'y'?")
    assert str(full) == "a.toml:14: targets[1].x: unknown key\n  fix: did you mean 'y'?"
    assert str(Problem(Where(Path("a.toml")), "is empty")) == "a.toml: is empty"
    assert str(LecoError([full, Problem(None, "more")])).splitlines()[-1] == "more"
    assert LecoError("no", fix="yes").problems == (Problem(None, "no", "yes"),)


@pytest.mark.parametrize(
    "module",
    [
        "leco_plugin",
        "leco_plugin.commands.main",
        "leco_plugin.config.build",
        "leco_plugin.tiny",
        "leco_plugin.hosts.ai_toolkit.checkout",
    ],
)
def test_light_modules_are_light(module):
    """Importing them loads neither torch nor numpy nor PIL nor rich."""
    script = f"import sys, {module}; print(sorted({{'torch', 'numpy', 'PIL', 'rich', 'diffusers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("library", "folders"),
    [
        ("rich", {"observers"}),
        ("diffusers", {"families", "network", "hosts", "tiny"}),
        ("transformers", {"families", "network", "tiny"}),
        ("peft", {"families", "network"}),
        ("pluggy", set()),
    ],
)
def test_libraries_stay_behind_their_part(library, folders):
    """Only these folders import them; modules at the top of the package may import pluggy."""
    found = set()
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if library in {name.split(".")[0] for name in names}:
                parts = path.relative_to(SOURCES).parts
                found.add(parts[0] if len(parts) > 1 else "")
    assert found - {""} <= folders
    assert "" not in found or library == "pluggy"
