"""The package by itself: built, installed without the repository, and put to work."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from tests.repo.source import ROOT, repository_files, tool_names


def _run(
    command: list[object], folder: pathlib.Path, cache: pathlib.Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, with nothing of this process's search path."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    kept["XDG_CACHE_HOME"] = str(cache or folder / "cache")  # no table from elsewhere
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, env=kept, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The wheel of a source distribution of the files that are tracked."""
    folder = tmp_path_factory.mktemp("build")
    for path in repository_files():
        (folder / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / "source" / path)
    program = "from setuptools import build_meta; build_meta.build_sdist('..')"
    made = _run([sys.executable, "-c", program], folder / "source")
    assert made.returncode == 0, made.stderr
    (source,) = folder.glob("*.tar.gz")
    # setuptools of this environment, so that no network is asked for one.
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    made = _run([sys.executable, "-m", "pip", "wheel", *options, source], folder)
    assert made.returncode == 0, made.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def bin_folder(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Programs of a new environment, with a space in its path, that holds the wheel.

    Packages that the wheel asks for are taken from the environment of the tests.
    """
    folder = tmp_path_factory.mktemp("new environment") / "with a space"
    made = _run([sys.executable, "-m", "venv", "--without-pip", folder], ROOT)
    assert made.returncode == 0, made.stderr
    python = folder / "bin/python"
    site = pathlib.Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    packages = [path for path in sys.path if path.endswith("-packages")]
    (site / "requirements.pth").write_text("\n".join(packages), encoding="utf-8")
    options = ("--no-deps", "--no-index", "--disable-pip-version-check")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", *options, wheel]
    made = _run(pip, folder)
    assert made.returncode == 0, made.stderr
    return folder / "bin"


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A user's folder, with files whose names are those of parts of the repository."""
    for name in ("tools/__init__.py", "tools.py", "saved_models.py", "flags.py", "benchmarks.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('a file of the user')\n", encoding="utf-8")
    return tmp_path


def test_wheel_holds_the_package_alone_and_all_of_it(wheel: pathlib.Path):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {p for p in repository_files() if p.startswith("dance_tf/")}
    for name in ("tools", "saved_models/evaluator_", "saved_models/supernet_"):
        wanted |= {f"dance_tf/{p}" for p in repository_files() if p.startswith(name)}
    assert held == {path for path in wanted if pathlib.PurePath(path).name != "BUILD"}
    assert wheel.stat().st_size < 8e6


def test_both_ways_to_the_program_list_the_tools(bin_folder: pathlib.Path, folder: pathlib.Path):
    for program in (["dance-tf"], ["python", "-P", "-m", "dance_tf"]):
        if program[-1] == "dance_tf" and sys.version_info < (3, 11):
            continue  # which has no -P
        done = _run([bin_folder / program[0], *program[1:]], folder)
        assert (done.returncode, done.stderr) == (0, "")
        listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
        assert listed == set(tool_names())
        assert "dance-tf search --preset=quick" in done.stdout
        assert "python -m tools" not in done.stdout


@pytest.mark.parametrize("name", tool_names())
def test_help_names_a_command_that_exists(
    name: str, bin_folder: pathlib.Path, folder: pathlib.Path
):
    done = _run([bin_folder / "dance-tf", name.replace("_", "-"), "--help"], folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: dance-tf {name.replace('_', '-')} " in done.stdout
    assert "python -m tools" not in done.stdout


def test_benchmark_says_where_it_belongs(bin_folder: pathlib.Path, folder: pathlib.Path):
    done = _run([bin_folder / "dance-tf", "benchmark"], folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and "in a clone" in done.stderr


def test_search_leaves_a_run(
    bin_folder: pathlib.Path, folder: pathlib.Path, cache_dir: pathlib.Path
):
    flags = ("--preset=tiny", "--noretrain", "--output_dir=runs/first")
    done = _run([bin_folder / "dance-tf", "search", *flags], folder, cache_dir.parent)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["output_dir"] == str(folder / "runs/first")
    assert all(os.path.exists(path) for path in summary["files"].values())


def test_messages_name_commands_that_exist(bin_folder: pathlib.Path, folder: pathlib.Path):
    done = _run([bin_folder / "dance-tf", "pareto", "--output_dir=sweep"], folder)
    assert done.returncode == 1 and "`dance-tf train-supernet`" in done.stderr


def test_costs_of_an_application(bin_folder: pathlib.Path, folder: pathlib.Path):
    application = ("--application=MobileNetV2", "--input_size=32", "--format=json")
    few = [f"--set=hardware.accelerators.{name}=[8]" for name in ("pe_x", "pe_y")]
    few.append('--set=hardware.accelerators.dataflow=["row_stationary"]')
    command = ["evaluate_cost", "--preset=tiny", *few, *application, "--best_accelerator"]
    done = _run([bin_folder / "dance-tf", *command], folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["name"].startswith("mobilenetv2")


#: Run with every evaluator and the supernet that come with the package.
_SHIPPED = """
import pathlib, dance_tf
from dance_tf.config import EvaluatorConfig
from dance_tf.evaluator.loading import check_evaluator
from dance_tf.evaluator.neural import NeuralEvaluator
from dance_tf.evaluator.loading import shipped_path
from dance_tf.run.installation import or_shipped

assert pathlib.Path(dance_tf.__file__).is_relative_to(HOME), dance_tf.__file__
for name in ("cifar10_small", "cifar10"):
    config = dance_tf.preset(name)
    space = dance_tf.make_space(config.space)
    assert check_evaluator(EvaluatorConfig(kind="neural"), space, config.hardware) is None
    NeuralEvaluator.load(shipped_path(space.name))  # compares the hashes of its files
supernet = pathlib.Path(or_shipped("saved_models/supernet_cifar_mbconv_small"))
assert supernet.is_relative_to(HOME) and (supernet / "supernet.json").is_file()
"""


def test_shipped_models_load(bin_folder: pathlib.Path, folder: pathlib.Path):
    program = f"HOME = {str(bin_folder.parent.resolve())!r}\n{_SHIPPED}"
    file = folder / "shipped.py"
    file.write_text(program, encoding="utf-8")
    done = _run([bin_folder / "python", file], folder)
    assert done.returncode == 0, done.stderr
