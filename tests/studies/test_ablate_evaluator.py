"""The ablation trains every form, writes each row when it has it, and goes on from there."""

from __future__ import annotations

import json

import pytest

from dance_tf.config import override
from dance_tf.evaluator import training
from dance_tf.hardware import cost_table
from dance_tf.presets import preset
from studies import ablate_evaluator
from tests.evaluator.fake_table import make_fake_table

TINY = (
    "--preset=tiny",
    *(f"--set=evaluator.{name}_steps=3" for name in ("generator", "estimator")),
    "--set=evaluator.batch_size=16",
    "--set=evaluator.num_blocks=1",
    *(f"--set=evaluator.{name}_units=8" for name in ("generator", "estimator")),
)


@pytest.fixture
def ablate(monkeypatch, tmp_path):
    """Return a call of the script on a made-up table; it gives the rows of the file."""
    monkeypatch.setattr(cost_table, "load_or_build_table", lambda *a, **k: make_fake_table())
    monkeypatch.setattr(training, "_NUM_CANDIDATE_DRAWS", 512)
    monkeypatch.setattr(training, "_NUM_ASSESSED", 16)
    monkeypatch.setattr(ablate_evaluator, "_NUM_GRADIENTS", 12)

    def run(*arguments: str) -> list[dict]:
        paths = (f"--output={tmp_path}/rows.json", f"--work_dir={tmp_path}/work")
        assert ablate_evaluator.main([*TINY, *paths, *arguments]) == 0
        return json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["rows"]

    return run


def test_every_form_is_another_configuration():
    configs = {
        str(override(preset("digits"), changes)) for changes in ablate_evaluator.FORMS.values()
    }
    assert len(configs) == len(ablate_evaluator.FORMS) > 5


def test_goes_on_and_prints_what_the_rows_say(without_tracing, ablate, monkeypatch, capsys):
    paper = ablate_evaluator.FORMS["as in the paper"]
    monkeypatch.setattr(ablate_evaluator, "FORMS", {"shipped": (), "the paper's": paper})
    monkeypatch.setattr(ablate_evaluator, "FORWARDINGS", ("soft",))
    first = ablate()
    monkeypatch.setattr(ablate_evaluator, "FORWARDINGS", ("soft", "gumbel"))
    monkeypatch.setattr(training, "train_evaluator", pytest.fail)
    rows = ablate()
    assert rows[: len(first)] == first
    assert [row["form"] for row in rows] == [
        "shipped",
        "the paper's",
        "shipped, forwarding soft",
        "shipped, forwarding gumbel",
    ]
    cosines = [row["soft"]["gradient_cosine"]["hard_minimum"] for row in rows[2:]]
    assert cosines[0] != cosines[1]
    assert all(0 < cosine["num"] <= 12 for cosine in cosines)
    table = capsys.readouterr().out.splitlines()[-6:]
    assert table[1].count("---") == table[0].count("|") - 1
    measured = rows[0]["one_hot"]["regret_edap"]
    assert f"| {100 * measured['mean']:.4f} %, {100 * measured['max']:.3f} % |" in table[2]
    assert table[5].startswith("| shipped, forwarding gumbel |")


def test_another_configuration_is_not_mixed_in(ablate, tmp_path, capsys):
    (tmp_path / "rows.json").write_text('{"config": {}, "rows": []}', encoding="utf-8")
    arguments = [*TINY, f"--output={tmp_path}/rows.json", f"--work_dir={tmp_path}/work"]
    assert ablate_evaluator.main(arguments) == 1
    assert "is of another configuration" in capsys.readouterr().err
    assert ablate_evaluator.main([*arguments, "--set=evaluator.unit=3"]) == 1
    assert "no field 'unit'" in capsys.readouterr().err
