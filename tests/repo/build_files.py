"""The BUILD files as the imports ask for them: one target per file with its direct deps.

`python -m tests.repo.build_files` writes them; test_build_files.py compares.
"""

from __future__ import annotations

import functools
import json
import pathlib
import re

from tests.repo.source import (
    DISTRIBUTIONS,
    OPTIONAL_DISTRIBUTIONS,
    ROOT,
    external_imports,
    first_party_imports,
    python_files,
    tool_names,
)

__all__ = ["build_files", "conftests", "imported_by_name", "label", "target_name"]

_HEADER = '''"""Generated from the imports: `make build_files`."""

'''

#: Files that a target reads when it runs.
_DATA = {
    "dance_tf/run/installation.py": ["//saved_models"],
    "dance_tf/hardware/technology.py": [
        "technologies/accelergy_2020_45nm.json",
        "technologies/cacti_45nm.json",
    ],
    "dance_tf/search/accuracy/table.py": ["nas_bench_macro.csv"],
    "dance_tf/search/accuracy/inherited.py": ["nas_bench_macro_inherited.json"],
    "dance_tf/supernet/space_files.py": [
        "spaces/cifar_mbconv.json",
        "spaces/cifar_mbconv_small.json",
        "spaces/encoder_small.json",
        "spaces/imagenet_mbconv.json",
        "spaces/nas_bench_macro.json",
        "spaces/series_mbconv.json",
        "spaces/tiny_mbconv.json",
    ],
    "dance_tf/report/page.py": ["parts.html.jinja", "report.css", "report.html.jinja"],
    "dance_tf/report/sweep_page.py": ["sweep.css", "sweep.html.jinja"],
}

#: The program of which the tools are parts.
_PROGRAM = "dance_tf/__main__.py"

#: Folders whose tests read the repository itself, which a sandbox does not hold.
_MANUAL = "tests/repo"


def target_name(path: str) -> str:
    """Return the name of a file's target."""
    return pathlib.PurePosixPath(path).stem


def label(path: str) -> str:
    """Return the absolute label of a file's target."""
    return f"//{pathlib.PurePosixPath(path).parent}:{target_name(path)}"


def conftests(path: str) -> list[str]:
    """Return the conftest.py files that pytest reads for a test file, outermost first."""
    folders = [str(folder) for folder in pathlib.PurePosixPath(path).parents]
    return [f for f in (f"{folder}/conftest.py" for folder in folders[::-1]) if f in python_files()]


@functools.cache
def imported_by_name(path: str) -> tuple[str, ...]:
    """Return the files that a file imports by names which it reads: the tools, for the program."""
    return tuple(f"tools/{name}.py" for name in tool_names()) if path == _PROGRAM else ()


def _kind(path: str) -> str:
    """Return the rule for a file."""
    name = pathlib.PurePosixPath(path).name
    if name.startswith("test_"):
        return "py_test"
    if path in imported_by_name(_PROGRAM):
        return "py_library"
    is_program = "\nif __name__ == " in (ROOT / path).read_text(encoding="utf-8")
    return "py_binary" if is_program else "py_library"


def _deps(path: str) -> list[str]:
    """Return the sorted labels of what a file imports, shortened inside its package."""
    package = f"//{pathlib.PurePosixPath(path).parent}:"
    imported = first_party_imports(path).union(imported_by_name(path))
    own = {label(target).replace(package, ":") for target in imported}
    if _kind(path) == "py_test":
        own |= {label(found).replace(package, ":") for found in conftests(path)}
    external = {
        "@pypi//" + re.sub(r"[-.]", "_", DISTRIBUTIONS[name])
        for name in external_imports(path) - set(OPTIONAL_DISTRIBUTIONS)
    }
    return sorted(own, key=lambda name: (name.startswith("//"), name)) + sorted(external)


def _attribute(name: str, value: object) -> str:
    if isinstance(value, list) and len(value) > 1:
        items = "".join(f"        {json.dumps(item)},\n" for item in value)
        return f"    {name} = [\n{items}    ],\n"
    return f"    {name} = {json.dumps(value)},\n"


def _target(path: str) -> str:
    name = pathlib.PurePosixPath(path).name
    kind = _kind(path)
    lines = [_attribute("name", target_name(path)), _attribute("srcs", [name])]
    if path in _DATA:
        lines.append(_attribute("data", _DATA[path]))
    if path.startswith("tests/") and kind != "py_test":
        lines.append("    testonly = True,\n")
    if kind == "py_test" and path.startswith(_MANUAL):
        lines.append(_attribute("tags", ["manual"]))
    deps = _deps(path)
    if deps:
        lines.append(_attribute("deps", deps))
    return f"{kind}(\n{''.join(lines)})\n"


def build_files() -> dict[str, str]:
    """Return path and text of the BUILD file of every folder that holds Python files."""
    packages: dict[str, list[str]] = {}
    for path in python_files():
        packages.setdefault(str(pathlib.PurePosixPath(path).parent), []).append(path)
    texts = {}
    for folder, paths in packages.items():
        rules = ", ".join(json.dumps(rule) for rule in sorted({_kind(path) for path in paths}))
        load = f'load("@rules_python//python:defs.bzl", {rules})\n\n'
        visibility = 'package(default_visibility = ["//visibility:public"])\n\n'
        targets = "\n".join(_target(path) for path in paths)
        texts[f"{folder}/BUILD"] = _HEADER + load + visibility + targets
    return texts


def main() -> None:
    """Write every BUILD file whose text has changed."""
    for path, text in build_files().items():
        file = ROOT / path
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
