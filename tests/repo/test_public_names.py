"""The public names of dance_tf are the listed ones, and importing it is cheap."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys

import pytest

import dance_tf
from tests.repo.source import ROOT, python_files

#: Changing a line of this file changes the interface: say so in CHANGELOG.md.
GOLDEN = (ROOT / "tests/repo/public_names.txt").read_text(encoding="utf-8").split()


def _explicit_imports() -> dict[str, str]:
    """Return the name to its module, from the import statements of dance_tf/__init__.py."""
    tree = ast.parse((ROOT / "dance_tf/__init__.py").read_text(encoding="utf-8"))
    return {
        alias.name: node.module.removeprefix("dance_tf.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("dance_tf.")
        for alias in node.names
        if alias.name != "__version__"
    }


def test_names_equal_the_golden_list():
    assert [f"{dance_tf._HOMES[name]}.{name}" for name in dance_tf.__all__] == GOLDEN


def test_the_explicit_imports_say_the_same():
    assert _explicit_imports() == dance_tf._HOMES
    assert sorted(dance_tf.__all__) == sorted(dance_tf._HOMES)


@pytest.mark.parametrize("name", dance_tf.__all__)
def test_name_is_that_of_its_module(name: str):
    module = importlib.import_module(f"dance_tf.{dance_tf._HOMES[name]}")
    assert getattr(dance_tf, name) is getattr(module, name)
    assert name in module.__all__
    assert name in dir(dance_tf)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        dance_tf.no_such_name  # noqa: B018


def test_import_is_cheap_and_config_needs_no_tensorflow():
    program = (
        "import sys, dance_tf; dance_tf.preset; dance_tf.Architecture;"
        " import dance_tf.protocols, dance_tf.run.reporting, dance_tf.run.run_info, tools.flags;"
        " print(sorted({'tensorflow', 'keras', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("path", [p for p in python_files() if p.startswith("dance_tf/")])
def test_all_lists_what_a_module_offers(path: str):
    """`__all__` names only what is there, once each."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "__all__"
    ]
    if path.endswith("__init__.py") and len(tree.body) <= 1:
        return  # A package that offers nothing but its modules.
    assert len(listed) == 1, f"{path} has no __all__"
    assert len(set(listed[0])) == len(listed[0])
    if path == "dance_tf/__init__.py":
        return
    defined = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
    assert set(listed[0]) <= defined, set(listed[0]) - defined
