"""Every command line: help at once, one line on a mistake, any number of imports."""

from __future__ import annotations

import ast
import concurrent.futures
import importlib
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest
from absl import flags

from dance_tf.version import __version__
from tests.repo.source import ROOT, tool_names
from tools import flags as common

# Runs a tool as `python -m` does, then says on a third channel what was imported.
_PROGRAM = """
import atexit, os, runpy, sys
atexit.register(lambda: os.write(3, b"tensorflow" if "tensorflow" in sys.modules else b"light"))
tool = sys.argv[1]
sys.argv = [f"{tool}.py", *sys.argv[2:]]
runpy.run_module(f"tools.{tool}", run_name="__main__", alter_sys=True)
"""

#: Per kind of call: arguments, then the status that it may end with.
_CALLS = {
    "help": (["--help"], {0}),
    "misspelt": (["--no_such_flag=1"], {2}),
    "positional": (["some_word"], {2}),
}


class Outcome:
    """What one call of a tool did."""

    def __init__(self, tool: str, arguments: list[str]) -> None:
        read, write = os.pipe()
        started = time.monotonic()
        environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        program = "import os, sys; os.dup2(int(sys.argv.pop(1)), 3)\n" + _PROGRAM
        done = subprocess.run(
            [sys.executable, "-c", program, str(write), tool, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            pass_fds=[write],
            timeout=120,
        )
        os.close(write)
        with os.fdopen(read) as channel:
            self.imported = channel.read()
        self.seconds = time.monotonic() - started
        self.status, self.out, self.err = done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], Outcome]:
    """Outcome of each call of each tool; they run beside each other."""
    calls = {(tool, kind): _CALLS[kind][0] for tool in tool_names() for kind in _CALLS}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda call: Outcome(call[0][0], call[1]), calls.items())
        return dict(zip(calls, done, strict=True))


@pytest.mark.parametrize("tool", tool_names())
def test_help_is_on_stdout_at_once(tool: str, outcomes: dict[tuple[str, str], Outcome]):
    outcome = outcomes[tool, "help"]
    assert outcome.status == 0
    assert outcome.err == ""
    assert outcome.imported == "light"
    assert outcome.out.rstrip().count("\n") > 5
    assert f"python -m tools.{tool}" in outcome.out
    # Measured in tenths of a second; the bound holds on a machine with other things to do.
    assert outcome.seconds < 5


@pytest.mark.parametrize("kind", ["misspelt", "positional"])
@pytest.mark.parametrize("tool", tool_names())
def test_wrong_flag_is_one_line(tool: str, kind: str, outcomes: dict[tuple[str, str], Outcome]):
    outcome = outcomes[tool, kind]
    assert outcome.status in _CALLS[kind][1]
    assert outcome.out == ""
    assert outcome.err.startswith(f"{tool}: ") and outcome.err.count("\n") == 1
    assert outcome.imported == "light"


def _file_flags() -> list[tuple[str, str]]:
    """Return the flags that name a file or folder to read, of each tool."""
    found = []
    for tool in tool_names():
        for name in importlib.import_module(f"tools.{tool}").FLAGS:
            if name in ("config", "reference", "wires", "run_dir", "model", "evaluator_dir"):
                found.append((tool, name))
    return found


@pytest.mark.parametrize(("tool", "name"), _file_flags())
def test_missing_file_is_one_line(tool: str, name: str, tmp_path: pathlib.Path):
    missing = tmp_path / "no such.json"
    arguments = [f"--{name}={missing}"]
    if name == "wires":
        reference = tmp_path / "reference.json"
        reference.write_text("[]", encoding="utf-8")
        arguments.append(f"--reference={reference}")
    output = tmp_path / "out"
    text = pathlib.Path(ROOT, "tools", f"{tool}.py").read_text(encoding="utf-8")
    if '"output_dir"' in text:
        arguments.append(f"--output_dir={output}")
    outcome = Outcome(tool, arguments)
    assert outcome.status in (1, 2), outcome.err
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    # A tool may first ask for a flag that it cannot do without.
    assert str(missing) in outcome.err or name == "config"
    assert outcome.imported == "light"
    assert not output.exists()


def test_all_tools_in_one_process_by_two_paths():
    program = f"""
import importlib, runpy, sys
names = {tool_names()!r}
for name in names:
    importlib.import_module(f"tools.{{name}}")
from dance_tf.__main__ import main
main([names[0], "--version"])  # Gives the folder its name in an installed package.
for name in names:
    other = importlib.import_module(f"dance_tf.tools.{{name}}")
    assert other is not sys.modules[f"tools.{{name}}"]
    importlib.reload(other)
    runpy.run_module(f"tools.{{name}}", run_name="again")
assert "tensorflow" not in sys.modules
print("one process")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (f"dance_tf {__version__}\none process\n", "")


#: Flags that take a file or something else, which their tools check; --data_dir has a variable.
_FILES_OR_ELSE = {
    "accelerator",
    "architecture",
    "data_dir",
    "draw",
    "fixed_accelerator",
    "fixed_architecture",
    "space",
    "version",
}


def test_flags_of_files_and_folders_are_paths():
    found = set()
    for tool in tool_names():
        values = importlib.import_module(f"tools.{tool}").FLAGS
        for flag in map(values.__getitem__, values):
            is_text = type(flag.parser) is flags.ArgumentParser
            if is_text and re.search(r"\b([Ff]ile|[Ff]older)\b|_dir$", f"{flag.help} {flag.name}"):
                found.add(flag.name)
    assert found <= _FILES_OR_ELSE, "define them with common.define_path"


def test_one_name_is_one_flag():
    """Flags of several tools with one name are of one kind, and the shared ones one object's."""
    kinds: dict[str, set[str]] = {}
    for tool in tool_names():
        values = importlib.import_module(f"tools.{tool}").FLAGS
        for name in values:
            kinds.setdefault(name, set()).add(type(values[name]).__name__)
    assert {name: kind for name, kind in kinds.items() if len(kind) > 1} == {}


def test_shared_names_are_defined_in_one_place():
    shared = set(common.shared_flags(*common.EXPERIMENT, "output_dir", "resume"))
    for tool in tool_names():
        text = pathlib.Path(ROOT, "tools", f"{tool}.py").read_text(encoding="utf-8")
        defined = {
            node.args[0].value
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr.startswith("DEFINE_")
        }
        assert not defined & shared, f"tools/{tool}.py"


#: What reads and writes text alone.
_WITHOUT_TENSORFLOW = {"export_mlflow", "show_technology", "space"}


@pytest.mark.parametrize("tool", sorted(set(tool_names()) - _WITHOUT_TENSORFLOW))
def test_tensorflow_is_loaded_without_its_lines(tool: str):
    text = pathlib.Path(ROOT, "tools", f"{tool}.py").read_text(encoding="utf-8")
    assert "common.load_tensorflow()" in text


def test_the_package_lists_its_tools_without_importing_them():
    program = (
        "import runpy, sys; sys.argv[1:] = sys.argv[2:] or []\n"
        "try:\n    runpy.run_module('dance_tf', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    loaded = {'tensorflow', 'tools'} & set(sys.modules)\n"
        "    sys.exit(f'loaded {loaded}' if loaded else end.code)\n"
    )

    def ask(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", program, "-", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    listed = ask()
    assert (listed.returncode, listed.stderr) == (0, "")
    for tool in tool_names():
        (line,) = (x for x in listed.stdout.splitlines() if x.startswith(f"  {tool} "))
        assert line.removeprefix(f"  {tool}").strip()
    assert ask("--version").stdout == f"dance_tf {__version__}\n"
    misspelt = ask("serch")
    assert misspelt.returncode == 2 and "did you mean 'search'" in misspelt.stderr
