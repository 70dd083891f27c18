"""Size, names and requirements of the sources; nothing in them of one machine."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys

import pytest

from tests.repo.source import (
    DISTRIBUTIONS,
    OPTIONAL_DISTRIBUTIONS,
    ROOT,
    external_imports,
    python_files,
    repository_files,
)

#: Words that a file of anyone's must not hold, beside the file that lists them.
FORBIDDEN = (
    r"(?<![\w.~}-])/(work|tmp|root|home)/",
    r"pypi\.(org|python)|pythonhosted|files\.pythonhosted|index-url\s+http|deb\.debian",
    r"\b(TODO|FIXME|XXX)\b",
)

TEXT = [
    path
    for path in repository_files()
    if path.rpartition(".")[2] in {"py", "md", "txt", "toml", "cff", "json", "bazel", "bzl", "csv"}
    or "." not in path.rpartition("/")[2]
]


def _requirements(path: str) -> dict[str, str]:
    """Return distribution to bounds."""
    found = {}
    for line in (ROOT / path).read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text and not text.startswith("-r"):
            name, bounds = re.fullmatch(r"([\w.-]+)(.*)", text).groups()
            found[name] = bounds
    return found


@pytest.mark.parametrize("path", python_files())
def test_files_are_short(path: str):
    lines = (ROOT / path).read_text(encoding="utf-8").count("\n")
    assert lines <= (600 if path.startswith("tests/") else 450), "aim for 100 to 350 lines"


@pytest.mark.parametrize("path", [p for p in TEXT if p != "tests/repo/test_source.py"])
def test_files_hold_nothing_of_one_machine(path: str):
    text = (ROOT / path).read_text(encoding="utf-8")
    for pattern in FORBIDDEN:
        found = re.search(pattern, text)
        assert found is None, f"{path}: {found.group(0)!r}"


def test_no_module_shadows_another():
    own = {"dance_tf", "tools", "tests", "examples", "benchmarks", "studies"}
    taken = set(sys.stdlib_module_names) | set(DISTRIBUTIONS)
    for path in python_files():
        stem = pathlib.PurePosixPath(path).stem
        assert stem not in taken, path
        assert stem not in {"utils", "common", "helpers", "misc"}, path
        assert path.partition("/")[0] in own, path


def test_every_package_has_an_init_file():
    folders = {
        str(pathlib.PurePosixPath(p).parent)
        for p in python_files()
        if p.startswith(("dance_tf/", "tools/"))
    }
    assert {f"{folder}/__init__.py" for folder in folders} <= set(python_files())


def test_every_file_says_what_it_is():
    for path in python_files():
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path


#: Optional packages to the only files that may import them.
_OPTIONAL_USERS = {
    "mlflow": ("tools/export_mlflow.py", "tests/"),
    "ray": ("dance_tf/run/engine.py", "tests/"),
    "torch": ("studies/pytorch/", "tests/studies/"),
}


def test_requirements_are_what_is_imported():
    run_time = _requirements("requirements.txt")
    development = _requirements("requirements-dev.txt") | _requirements("requirements-docs.txt")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    client = re.search(r"^serving = \[(.*)\]$", project, flags=re.MULTILINE).group(1)
    extra = {name: development[name] for name in ("grpcio", "tensorflow-serving-api")}
    assert client == ", ".join(f'"{name}{bounds}"' for name, bounds in extra.items())
    for path in python_files():
        declared = run_time if path.startswith(("dance_tf/", "tools/")) else run_time | development
        if path == "dance_tf/export/serving_client.py":
            declared = declared | extra
        for name in external_imports(path):
            if name in OPTIONAL_DISTRIBUTIONS:
                assert f'"{OPTIONAL_DISTRIBUTIONS[name]}>=' in project, name
                assert path.startswith(_OPTIONAL_USERS[name]), f"{path}: {name}"
                continue
            assert name in DISTRIBUTIONS, f"{path}: {name} is not in DISTRIBUTIONS"
            assert DISTRIBUTIONS[name] in declared, f"{path}: {name} is not required"
    imported = {name for path in python_files() for name in external_imports(path)}
    imported -= set(OPTIONAL_DISTRIBUTIONS)
    silent = {"importlib_resources", "tensorboard"}  # needed by others, imported by none of ours
    programs = {"mypy", "pytest-xdist", "ruff", "setuptools"}
    programs |= {"mkdocs", "mkdocs-material", "mkdocstrings-python"}
    unused = {*run_time, *development} - {DISTRIBUTIONS[n] for n in imported} - silent - programs
    assert not unused


def test_requirements_are_bounded_on_both_sides():
    for path in ("requirements.txt", "requirements-dev.txt", "requirements-docs.txt"):
        for name, bounds in _requirements(path).items():
            assert re.fullmatch(r">=[\d.]+,<[\d.]+", bounds), f"{path}: {name}{bounds}"


def test_lock_holds_the_requirements_and_no_beam():
    lock = (ROOT / "requirements_lock.txt").read_text(encoding="utf-8")
    pins = dict(line.split("==") for line in lock.splitlines() if "==" in line)
    assert "apache-beam" not in pins
    required = _requirements("requirements.txt") | _requirements("requirements-dev.txt")
    required |= _requirements("requirements-docs.txt")
    for name, bounds in required.items():
        pinned = tuple(map(int, re.findall(r"\d+", pins[name.replace("_", "-")])[:2]))
        low, high = (tuple(map(int, b.split("."))) for b in re.findall(r"[\d.]+", bounds))
        assert low[:2] <= pinned < high, name


def test_python_versions_agree():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    low, high = map(int, re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups())
    versions = f"3.{low} to 3.{high - 1}"
    for path in ("requirements.txt", ".ci/environment", "README.md"):
        assert versions in (ROOT / path).read_text(encoding="utf-8"), path
    assert f"3.1[{low - 10}-{high - 11}]" in (ROOT / ".ci/environment").read_text(encoding="utf-8")


def test_shell_scripts_are_sound():
    for path in (".ci/run", ".ci/environment"):
        shell = (ROOT / path).read_text(encoding="utf-8").partition("\n")[0]
        program = "bash" if "bash" in shell else "sh"
        subprocess.run([program, "-n", str(ROOT / path)], check=True)
        assert (ROOT / path).stat().st_mode & 0o111, f"{path} is not executable"


def test_no_large_file_is_committed():
    sizes = {path: (ROOT / path).stat().st_size for path in repository_files()}
    assert all(size < 8_000_000 for size in sizes.values()), max(sizes, key=sizes.get)
    assert not [p for p in sizes if p.endswith((".pkl", ".pickle", ".pyc", ".npy", ".yaml"))]
