"""The repository's files and the imports in them; what the checks of this folder read."""

from __future__ import annotations

import ast
import functools
import pathlib
import subprocess
import sys

__all__ = [
    "DISTRIBUTIONS",
    "OPTIONAL_DISTRIBUTIONS",
    "ROOT",
    "external_imports",
    "first_party_imports",
    "imported_names",
    "python_files",
    "repository_files",
    "tool_names",
]

ROOT = pathlib.Path(__file__).resolve().parents[2]

#: Import name to the distribution that provides it, where we use one.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "ai_edge_litert": "ai-edge-litert",
    "flatbuffers": "flatbuffers",
    "google": "protobuf",
    "grpc": "grpcio",
    "h5py": "h5py",
    "hypothesis": "hypothesis",
    "importlib_resources": "importlib_resources",
    "jinja2": "jinja2",
    "keras": "keras",
    "markdown": "markdown",
    "matplotlib": "matplotlib",
    "moocore": "moocore",
    "numpy": "numpy",
    "pandas": "pandas",
    "pymoo": "pymoo",
    "pytest": "pytest",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tensorflow": "tensorflow",
    "tensorflow_datasets": "tensorflow-datasets",
    "tensorflow_serving": "tensorflow-serving-api",
    "yaml": "pyyaml",
}

#: The same for what an extra of pyproject.toml installs and all else can do without.
OPTIONAL_DISTRIBUTIONS = {"mlflow": "mlflow-skinny", "ray": "ray", "torch": "torch"}


@functools.cache
def repository_files() -> tuple[str, ...]:
    """Return the paths of all files that are tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    return tuple(sorted({path for path in listed if path and (ROOT / path).is_file()}))


def python_files() -> tuple[str, ...]:
    """Return the paths of all Python files."""
    return tuple(path for path in repository_files() if path.endswith(".py"))


def tool_names() -> tuple[str, ...]:
    """Return NAME of every `python -m tools.NAME`."""
    programs = [
        path
        for path in python_files()
        if path.startswith("tools/") and "\nif __name__ == " in (ROOT / path).read_text("utf-8")
    ]
    return tuple(path.removeprefix("tools/").removesuffix(".py") for path in programs)


@functools.cache
def imported_names(path: str) -> frozenset[str]:
    """Return the dotted names that a file imports anywhere.

    `from a import b` is a.b, and in a file of folder a `from .b import c` is a.b.c.
    """
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"), path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.split("/")[: -node.level] if node.level else []
            home = ".".join([*package, *filter(None, [node.module])])
            names |= {f"{home}.{alias.name}" for alias in node.names}
    return frozenset(names)


def _first_party_file(name: str) -> str | None:
    """Return the file of a dotted name: the module itself, or the one that holds the name."""
    parts = name.split(".")
    for end in (len(parts), len(parts) - 1):
        stem = "/".join(parts[:end])
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if path in python_files():
                return path
    return None


@functools.cache
def first_party_imports(path: str) -> frozenset[str]:
    """Return the files of this repository that a file imports from."""
    found = set()
    for name in imported_names(path):
        if name.partition(".")[0] in {p.partition("/")[0] for p in python_files()}:
            target = _first_party_file(name)
            if target is None:
                raise ValueError(f"{path}: imports {name}, which does not exist")
            found.add(target)
    return frozenset(found - {path})


@functools.cache
def external_imports(path: str) -> frozenset[str]:
    """Return the top-level names that a file imports from other distributions."""
    own = {p.partition("/")[0] for p in python_files()}
    names = {name.partition(".")[0] for name in imported_names(path)}
    return frozenset(names - own - set(sys.stdlib_module_names))
