"""Container and cluster files: they parse, hold what their readers ask for, and their commands
are ones that the tools take. None of them is run here."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

from tests.repo.source import ROOT

BATCH = ("sweep.sbatch", "retrain.sbatch")


def _read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def _check(words: list[str]) -> str:
    """Let a tool's own flags parse its words; return its name."""
    tool, *arguments = words
    values = importlib.import_module(f"tools.{tool.replace('-', '_')}").FLAGS
    values.unparse_flags()
    values([tool, *arguments])
    values.unparse_flags()
    return tool


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", _read("Dockerfile"), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def test_the_image_runs_the_tools_as_a_user_that_is_not_root():
    found = _instructions()
    names = [name for name, _ in found]
    known = {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}
    assert set(names) <= known and names[:2] == ["ARG", "FROM"]
    users = [value for name, value in found if name == "USER"]
    assert users and users[-1] not in ("root", "0")
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert json.loads(dict(found)["ENTRYPOINT"]) == ["dance-tf"]
    allowed = {line[1:] for line in _read(".dockerignore").splitlines() if line.startswith("!")}
    for name, value in found:
        if name == "COPY":
            for source in value.split()[:-1]:
                assert (ROOT / source).exists() and source in allowed


def test_the_composition_serves_what_its_search_exports():
    services = yaml.safe_load(_read("compose.yml"))["services"]
    search, evaluator = services["search"], services["evaluator"]
    assert _check(search["command"]) == "search"
    assert evaluator["image"].startswith("tensorflow/serving:")
    (folder, target, mode) = evaluator["volumes"][0].split(":")
    assert target == f"/models/{evaluator['environment']['MODEL_NAME']}" and mode == "ro"
    (output_dir,) = (w for w in search["command"] if w.startswith("--output_dir="))
    assert folder == f"./{output_dir.partition('=')[2]}/exports/evaluator"
    assert {"8500:8500", "8501:8501"} == set(evaluator["ports"])


def test_the_ray_job_has_the_fields_of_its_schema():
    job = yaml.safe_load(_read("examples/cluster/rayjob.yml"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob") and job["metadata"]["name"]
    spec = job["spec"]
    program, *words = shlex.split(spec["entrypoint"])
    assert program == "dance-tf" and _check(words) == "pareto"
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["image"] and container["resources"]["limits"]
    for group in groups[1:]:
        assert group["groupName"] and group["minReplicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("name", BATCH)
def test_a_batch_file_is_shell_and_its_commands_are_the_tools(name):
    text = _read(f"examples/cluster/{name}")
    assert text.startswith("#!/bin/bash\n")
    options = re.findall(r"^#SBATCH (--[a-z-]+)=\S+$", text, flags=re.MULTILINE)
    assert len(options) == text.count("#SBATCH") and {"--nodes", "--time"} <= set(options)
    if shutil.which("bash"):
        path = ROOT / "examples/cluster" / name
        subprocess.run(["bash", "-n", str(path)], check=True)
    commands = re.findall(r"dance-tf (.*)", text.replace("\\\n", " "))
    assert commands
    for command in commands:
        words = [w for w in shlex.split(command.rstrip("&' ")) if not w.startswith("$")]
        _check([re.sub(r"\$\w+|\$\{\w+\}", "x", word) for word in words])
