"""The documents name commands, flags, files, fields and versions that exist."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex

import pytest
from absl import flags

import dance_tf
from dance_tf.config import override
from dance_tf.presets import PRESETS, preset
from dance_tf.search.result import SearchResult
from dance_tf.structs import DATAFLOWS
from tests.repo.source import ROOT, python_files, repository_files, tool_names

DOCUMENTS = [path for path in repository_files() if path.endswith(".md")]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _commands() -> list[tuple[str, list[str]]]:
    """Return tool and arguments of every `python -m tools.NAME` in the documents."""
    found = []
    for path in DOCUMENTS:
        text = (ROOT / path).read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"python -m tools\.(\w[^`\n]*)", text):
            tool, *arguments = shlex.split(line.partition(" > ")[0], comments=True)
            found.append((tool, arguments))
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


def test_settings_exist():
    settings = re.findall(r"--set=([\w.]+=[^\s`]+)", " ".join(map(_text, DOCUMENTS)))
    assert len(settings) >= 6
    for setting in settings:
        override(preset("digits"), [setting])


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_every_tool_is_in_the_readme_and_every_flag_is_explained():
    for tool in tool_names():
        assert f"`{tool}`" in README, tool
        values: flags.FlagValues = importlib.import_module(f"tools.{tool}").FLAGS
        for name in values:
            assert values[name].help.strip(), f"tools.{tool} --{name}"


def test_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", _text("Makefile"), flags=re.MULTILINE))
    named = {name for path in DOCUMENTS for name in re.findall(r"`make (\w+)", _text(path))}
    named |= set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
    assert {"search", "test"} <= named <= targets
    phony = re.search(r"^\.PHONY: (.*)$", _text("Makefile"), flags=re.MULTILINE).group(1)
    assert set(phony.split()) == targets


def test_ci_runs_the_command_that_the_readme_gives():
    assert re.search(r"^exec make test$", _text(".ci/run"), flags=re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_lead_somewhere(path: str):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", _text(path)):
        if "://" not in target:
            assert ((ROOT / path).parent / target).exists(), target
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", _text(path), flags=re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", _text(path))) <= headings


def test_result_fields_are_those_of_the_readme():
    section = README.partition("## result.json")[2].partition("\n## ")[0]
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    named |= set(re.findall(r"`(accuracy_reason)`", section))
    fields = {field.name for field in dataclasses.fields(SearchResult)} - {"history"}
    assert named == fields | {"schema_version"}


def test_departures_from_the_paper_are_gathered():
    marker = "Differs from the paper:"
    section = README.partition(f"\n{marker}\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| \[[^]]*\]\(([^)]+)\)", section, flags=re.MULTILINE))
    sources = {p for p in python_files() if p.startswith("dance_tf/") and marker in _text(p)}
    assert listed == sources


def test_versions_agree():
    version = dance_tf.__version__
    assert f'\nversion = "{version}"\n' in _text("pyproject.toml")
    assert f"\nversion: {version}\n" in _text("CITATION.cff")
    assert f'    version = "{version}",\n' in _text("MODULE.bazel")
    assert re.search(r"^## (\S+)", _text("CHANGELOG.md"), flags=re.MULTILINE).group(1) == version


def test_glossary_has_every_axis_and_dataflow():
    glossary = _text("GLOSSARY.md")
    for word in (
        "`A`",
        "`L`",
        "`M`",
        "`B`",
        "`O`",
        "`D`",
        *DATAFLOWS,
    ):
        assert word in glossary, word
