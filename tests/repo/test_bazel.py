"""`bazel query` over the BUILD files, where Debian's Bazel is installed."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess

import pytest

from tests.repo.build_files import label
from tests.repo.source import DISTRIBUTIONS, ROOT, python_files

STUB = ROOT / "tests" / "repo" / "rules_python_stub"


def _bazel() -> str:
    """Return the program, or skip."""
    bazel = shutil.which("bazel")
    if bazel is None:
        pytest.skip("bazel is not installed (Debian: apt-get install bazel-bootstrap)")
    if " " in str(ROOT):
        pytest.skip("bazel refuses to work in a path with a space")
    shown = subprocess.run([bazel, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"bazel (\d+)", shown.stdout)  # Debian's says "no_version"
    if version and int(version.group(1)) >= 6:
        pytest.skip(f"{shown.stdout.strip()} reads MODULE.bazel and asks the network for its rules")
    return bazel


@pytest.fixture(scope="module")
def query(tmp_path_factory: pytest.TempPathFactory):
    """A function that runs one query and returns its lines."""
    bazel = _bazel()
    folder = tmp_path_factory.mktemp("bazel")
    packages = folder / "pypi"
    packages.mkdir()
    (packages / "WORKSPACE").write_text('workspace(name = "pypi")\n')
    for distribution in DISTRIBUTIONS.values():
        name = distribution.replace("-", "_")
        (packages / name).mkdir()
        (packages / name / "BUILD").write_text(
            f'py_library(name = "{name}", visibility = ["//visibility:public"])\n'
        )

    def run(expression: str, *options: str) -> list[str]:
        command = [bazel, "--batch", f"--output_user_root={folder / 'output'}", "query"]
        command += [expression, f"--override_repository=rules_python={STUB}", *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    yield lambda expression, with_packages=False: run(
        expression,
        *([f"--override_repository=pypi={packages}", "--noimplicit_deps"] if with_packages else []),
    )
    # The server's output tree is read-only for everyone; let pytest remove it.
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def test_query_finds_every_file(query):
    assert {label(path) for path in python_files()} <= set(query("//..."))


def test_every_dep_resolves(query):
    # Not deps(//...): what a py_test needs of Bazel itself would be asked of the network.
    found = query('labels("deps", //...)', with_packages=True)
    assert "@pypi//tensorflow:tensorflow" in found


def test_search_depends_on_the_cost_model_and_hardware_not_on_search(query):
    search = query('deps(labels("deps", //tools:search))', with_packages=True)
    assert "//dance_tf/hardware/loopnest:cost_model" in search
    hardware = query("deps(//dance_tf/hardware/...)", with_packages=True)
    assert not [t for t in hardware if t.startswith(("//dance_tf/search", "//dance_tf/supernet"))]
    assert "@pypi//keras:keras" not in hardware
