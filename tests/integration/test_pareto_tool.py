"""The sweep's command line: what it refuses, and what a whole run leaves."""

from __future__ import annotations

import json

import pytest

from tools import flags as common
from tools import pareto, report, train_supernet

pytestmark = pytest.mark.usefixtures("module_without_tracing")

QUICK = ("--preset=tiny", "--supernet=superkernel", "--set=search.batch_size=500")


def _call(tool, name, *arguments):
    return common.call(tool.main, tool.FLAGS, [name, *arguments])


@pytest.fixture(scope="module")
def supernet_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supernet")
    assert _call(train_supernet, "train_supernet", *QUICK, f"--output_dir={folder}") == 0
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--supernet_dir is missing"),
        (("--supernet_dir=nowhere",), "has no supernet.json"),
        (("--supernet_dir=nowhere", "--lambdas=0,much"), "not numbers"),
        (("--supernet_dir=nowhere", "--lambdas=-1"), "from 0 up"),
        (("--supernet_dir=nowhere", "--objectives=EDAP,EDP"), "'EDP'"),
        (("--supernet_dir=nowhere", "--objectives="), "needs an objective"),
        (
            ("--supernet_dir=nowhere", "--objectives=EDAP,linear", "--set=search.lambda_area=0"),
            "EDAP has its own weights",
        ),
        (("--supernet_dir=nowhere", "--fixed_accelerator=pe_x=8"), "missing"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, message, tmp_path, capsys):
    folder = tmp_path / "sweep"
    assert _call(pareto, "pareto", *QUICK, *arguments, f"--output_dir={folder}") == 1
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1] and error[-1].startswith("pareto: ")
    assert not folder.exists()


def test_weights_go_with_the_objectives_that_take_them(supernet_dir, cache_dir, tmp_path, capsys):
    folder = tmp_path / "sweep"
    arguments = (f"--supernet_dir={supernet_dir}", f"--cache_dir={cache_dir}")
    arguments = (*arguments, "--set=search.lambda_area=0")
    fixed = "--set=search.max_latency_ms=1e-6"  # ends it where it would begin
    arguments = (*QUICK, *arguments, fixed, "--objectives=linear", f"--output_dir={folder}")
    assert _call(pareto, "pareto", *arguments) == 1
    assert "1e-06" in capsys.readouterr().err.splitlines()[-1]


def test_limits_out_of_reach_are_refused_before_the_folder_is_touched(
    supernet_dir, cache_dir, tmp_path, capsys
):
    folder = tmp_path / "sweep"
    arguments = (f"--supernet_dir={supernet_dir}", f"--cache_dir={cache_dir}")
    arguments = (*arguments, "--set=search.max_latency_ms=1e-6")
    assert _call(pareto, "pareto", *QUICK, *arguments, f"--output_dir={folder}") == 1
    assert "1e-06" in capsys.readouterr().err.splitlines()[-1]
    assert not folder.exists()


def test_a_run_leaves_the_front_its_picture_and_every_search(
    supernet_dir, cache_dir, tmp_path, capsys
):
    arguments = (
        *QUICK,
        f"--supernet_dir={supernet_dir}",
        f"--cache_dir={cache_dir}",
        f"--output_dir={tmp_path / 'sweep'}",
        "--objectives=EDAP,latency",
        "--lambdas=0,0.5",
        "--num_images=64",
    )
    assert _call(pareto, "pareto", *arguments) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "sweep" / "pareto.json").read_text())
    assert len(found["points"]) == 4 and found["num_images"] == 64 and not found["retrained"]
    assert out.splitlines()[0].startswith("objective") and "hypervolume" in out
    page = (tmp_path / "sweep" / "pareto.html").read_text()
    for point in found["points"]:
        search = point["search"]
        name = f"{search['objective']}_lambda{search['lambda_2']:g}_seed{search['seed']}"
        assert (tmp_path / "sweep" / "searches" / name / "result.json").exists()
        assert (tmp_path / "sweep" / "searches" / name / "report.html").exists()
        assert f'href="searches/{name}/report.html"' in page
    assert (tmp_path / "sweep" / "pareto.svg").read_text().startswith("<?xml")
    assert _call(report, "report", f"--run_dir={tmp_path / 'sweep'}") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'sweep' / 'pareto.html'}\n"
    assert _call(pareto, "pareto", *arguments) == 1, "without --resume the folder is kept"
    assert "is not empty" in capsys.readouterr().err
    assert _call(pareto, "pareto", *arguments, "--resume", "--num_retrained=1") == 0
    again = json.loads((tmp_path / "sweep" / "pareto.json").read_text())
    assert again["retrained"]["num_trainings"] == 1
    assert "by retrained error" in capsys.readouterr().out
