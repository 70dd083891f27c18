"""The manual names commands, flags, files, fields and versions that exist, and builds."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import posixpath
import re
import shlex
import subprocess
import sys

import pytest
from absl import flags

import dance_tf
from dance_tf.config import override
from dance_tf.presets import PRESETS, preset
from dance_tf.search.result import SearchResult
from dance_tf.structs import DATAFLOWS
from tests.repo.manual import DOCUMENTS, MANUAL, headings, read
from tests.repo.source import ROOT, python_files, repository_files, tool_names


def _commands() -> list[tuple[str, list[str]]]:
    """Return tool and arguments of every `python -m tools.NAME` and `dance-tf NAME`."""
    found = []
    for path in DOCUMENTS:
        text = read(path).replace("\\\n", " ")
        for line in re.findall(r"(?:python -m tools\.|\bdance-tf )(\w[^`\n]*)", text):
            tool, *arguments = shlex.split(line.partition(" > ")[0], comments=True)
            found.append((tool.replace("-", "_"), arguments))
    return [
        (tool, [a for a in arguments if a != "..."]) for tool, arguments in found if tool != "NAME"
    ]


@pytest.mark.parametrize(("tool", "arguments"), _commands())
def test_commands_parse(tool: str, arguments: list[str]):
    assert tool in tool_names()
    module = importlib.import_module(f"tools.{tool}")
    module.FLAGS.unparse_flags()
    rest = module.FLAGS([tool, *(a for a in arguments if a != "--help")])
    assert rest == [tool]
    if "preset" in module.FLAGS and module.FLAGS["preset"].value:
        assert module.FLAGS["preset"].value in PRESETS


def test_other_programs_exist():
    folders = "benchmarks|examples|studies|tests"
    for path in DOCUMENTS:
        for module in re.findall(rf"python -m ((?:{folders})[\w.]+)", read(path)):
            assert module.rstrip(".").replace(".", "/") + ".py" in python_files(), (path, module)


def test_settings_exist():
    lines = "\n".join(map(read, DOCUMENTS)).splitlines()
    settings = [re.findall(r"--set=([\w.]+=[^\s`]+)", line) for line in lines]
    assert len(list(filter(None, settings))) >= 6
    for of_line in settings:
        override(preset("digits"), of_line)


def test_every_tool_is_in_the_manual_and_every_flag_is_explained():
    listed = read("docs/tools.md")
    for tool in tool_names():
        assert f"\n| `{tool}` |" in listed, tool
        values: flags.FlagValues = importlib.import_module(f"tools.{tool}").FLAGS
        for name in values:
            assert values[name].help.strip(), f"tools.{tool} --{name}"


def test_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", read("Makefile"), flags=re.MULTILINE))
    named = {name for path in DOCUMENTS for name in re.findall(r"`make (\w+)", read(path))}
    named |= set(re.findall(r"^make (\w+)", read("README.md"), flags=re.MULTILINE))
    assert {"search", "test"} <= named <= targets
    phony = re.search(r"^\.PHONY: (.*)$", read("Makefile"), flags=re.MULTILINE).group(1)
    assert set(phony.split()) == targets


def test_ci_runs_the_command_that_the_readme_gives():
    assert re.search(r"^exec make test$", read(".ci/run"), flags=re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_lead_somewhere(path: str):
    for link in re.findall(r"\]\(([^)\s]+)[^)]*\)", read(path)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), name)) if name else path
        assert (ROOT / target).exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("path", MANUAL)
def test_files_that_the_manual_names_exist(path: str):
    folders = "benchmarks|dance_tf|examples|saved_models|studies|tests|tools"
    for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", read(path)):
        assert (ROOT / name).exists(), name


def test_readme_is_short():
    assert read("README.md").count("\n") <= 200


def test_pictures_are_small_and_show_every_room():
    pictures = [path for path in repository_files() if path.startswith("docs/images/")]
    assert all((ROOT / path).stat().st_size < 300_000 for path in pictures)
    drawn = re.findall(r'font-weight="bold">(\w+)<', read("docs/images/rooms.svg"))
    inits = [path.split("/") for path in python_files() if path.endswith("/__init__.py")]
    rooms = {parts[1] for parts in inits if parts[0] == "dance_tf" and len(parts) == 3}
    assert sorted(drawn) == sorted(rooms | {"dance_tf", "tools"})


def test_result_fields_are_those_of_the_manual():
    section = read("docs/run_folder.md").partition("## result.json")[2].partition("\n## ")[0]
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    named |= set(re.findall(r"`(accuracy_reason)`", section))
    fields = {field.name for field in dataclasses.fields(SearchResult)} - {"history"}
    assert named == fields | {"schema_version"}


def test_departures_from_the_paper_are_gathered():
    page = read("docs/differences_from_the_paper.md")
    listed = set(re.findall(r"^\| `([^`]+\.py)` \|", page, flags=re.MULTILINE))
    marker = "Differs from the paper:"
    # Each rival has its list at the head of its module; docs/strategies.md says so.
    sources = {
        path
        for path in python_files()
        if path.startswith("dance_tf/") and "/strategies/" not in path and marker in read(path)
    }
    assert listed == sources


def test_every_public_name_has_its_place_in_the_reference():
    pages = " ".join(read(path) for path in MANUAL if path.startswith("docs/reference/"))
    referred = re.findall(r"^::: (\S+)$", pages, flags=re.MULTILINE)
    assert sorted(referred) == sorted(f"dance_tf.{name}" for name in dance_tf.__all__)


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="MkDocs is not installed")
def test_the_manual_builds_with_every_link_and_anchor(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for path in MANUAL:
        if path.startswith("docs/"):
            page = path.removeprefix("docs/").removesuffix(".md") + ".html"
            html = (tmp_path / page).read_text(encoding="utf-8")
            fetched = r"(?:src|srcset)=\"(https?:[^\"]*)|<link[^>]*href=\"(https?:[^\"]*)"
            assert not re.findall(fetched, html), path


def test_versions_agree():
    version = dance_tf.__version__
    assert f'\nversion = "{version}"\n' in read("pyproject.toml")
    assert f"\nversion: {version}\n" in read("CITATION.cff")
    assert f'    version = "{version}",\n' in read("MODULE.bazel")
    assert re.search(r"^## (\S+)", read("CHANGELOG.md"), flags=re.MULTILINE).group(1) == version


def test_glossary_has_every_axis_and_dataflow():
    glossary = read("GLOSSARY.md")
    for word in ("`A`", "`L`", "`M`", "`B`", "`O`", "`D`", *DATAFLOWS):
        assert word in glossary, word
