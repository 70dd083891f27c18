"""The BUILD files say what the imports say."""

from __future__ import annotations

import ast
import collections

from tests.repo.build_files import build_files, conftests, imported_by_name, label
from tests.repo.source import (
    DISTRIBUTIONS,
    OPTIONAL_DISTRIBUTIONS,
    ROOT,
    external_imports,
    first_party_imports,
    python_files,
    repository_files,
)

BUILD_FILES = [p for p in repository_files() if p.rpartition("/")[2] in ("BUILD", "BUILD.bazel")]
PACKAGES = [p for p in BUILD_FILES if "rules_python_stub" not in p]


def _targets(path: str) -> list[tuple[str, dict]]:
    """Return rule and attributes of each target, read without Bazel."""
    calls = [
        node.value
        for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    targets = []
    for call in calls:
        attributes = {
            k.arg: ast.literal_eval(k.value)
            for k in call.keywords
            if not isinstance(k.value, ast.Call)
        }
        targets.append((call.func.id, attributes))
    return targets


def _python_targets() -> dict[str, tuple[str, dict]]:
    """Return label to rule and attributes of every target with sources."""
    found = {}
    for path in PACKAGES:
        package = path.rpartition("/")[0]
        for rule, attributes in _targets(path):
            if "srcs" in attributes and rule.startswith("py_"):
                found[f"//{package}:{attributes['name']}"] = (rule, attributes)
    return found


def test_committed_files_are_the_generated_ones():
    for path, text in build_files().items():
        file = ROOT / path
        assert file.exists(), f"{path} is missing: make build_files"
        assert file.read_text(encoding="utf-8") == text, f"{path}: make build_files"


def test_every_python_file_is_the_only_source_of_one_target():
    sources = collections.Counter()
    for name, (_, attributes) in _python_targets().items():
        package = name[2:].partition(":")[0]
        assert len(attributes["srcs"]) == 1, name
        sources[f"{package}/{attributes['srcs'][0]}"] += 1
    assert sources == collections.Counter(python_files())


def test_test_files_are_tests_and_others_are_not():
    for name, (rule, attributes) in _python_targets().items():
        is_test = attributes["srcs"][0].startswith("test_")
        assert (rule == "py_test") == is_test, name


def test_deps_are_the_imports():
    targets = _python_targets()
    packages = {
        f"@pypi//{distribution.replace('-', '_')}": name
        for name, distribution in DISTRIBUTIONS.items()
    }
    for path in python_files():
        _, attributes = targets[label(path)]
        package = label(path).partition(":")[0]
        deps = attributes.get("deps", [])
        own = {package + d if d.startswith(":") else d for d in deps if not d.startswith("@")}
        external = {packages[d] for d in deps if d.startswith("@")}
        implied = conftests(path) if attributes["srcs"][0].startswith("test_") else []
        expected = {label(p) for p in (*first_party_imports(path), *implied)}
        expected |= {label(p) for p in imported_by_name(path)}
        assert own == expected, path
        assert external == external_imports(path) - set(OPTIONAL_DISTRIBUTIONS), path


def test_there_is_no_circle():
    finished: set[str] = set()

    def visit(path: str, above: tuple[str, ...]) -> None:
        assert path not in above, " -> ".join((*above, path))
        if path not in finished:
            for target in first_party_imports(path):
                visit(target, (*above, path))
            finished.add(path)

    for path in python_files():
        visit(path, ())


def test_rules_are_loaded_from_rules_python():
    for path in PACKAGES:
        used = {rule for rule, _ in _targets(path) if rule.startswith("py_")}
        loaded = [
            node
            for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load"
        ]
        names = set()
        for call in loaded:
            arguments = [ast.literal_eval(argument) for argument in call.args]
            assert arguments[0] == "@rules_python//python:defs.bzl", path
            names |= set(arguments[1:])
        assert names == used, path


def test_workspace_files_that_targets_name_exist():
    for path in PACKAGES:
        package = ROOT / path.rpartition("/")[0]
        for _, attributes in _targets(path):
            for source in attributes.get("srcs", []):
                assert (package / source).is_file(), f"{path}: {source}"
