"""A search that is ending in Zero everywhere says so and backs off."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dance_tf.config import SearchConfig
from dance_tf.errors import UserError
from dance_tf.search.collapse import CollapseGuard, zero_weight
from dance_tf.search.dance import DanceSearch
from dance_tf.supernet.supernet import build_network
from tests.evaluator.fake_table import make_fake_table
from tests.search.problems import ScoredSupernet, Unlabelled, make_problem

CONFIG = SearchConfig(
    epochs=6,
    warmup_epochs=1,
    batch_size=32,
    arch_learning_rate=0.1,
    arch_every=1,
    arch_paths=8,
    lambda_2_warmup_epochs=0,
    log_every=20,
)  # 20 steps an epoch, 100 architecture steps


@pytest.fixture(scope="module")
def table():
    return make_fake_table("cifar_mbconv_small")


def _problem(table):
    """Every op but Zero is of use, in each of nine blocks."""
    scores = np.full((9, 7), 0.5, np.float32)
    scores[:, -1] = -0.5
    supernet = ScoredSupernet(table.space, scores, 0)
    return make_problem(table, supernet=supernet, dataset=Unlabelled(640))


def _guard(table, is_limited=False, **changes):
    config = dataclasses.replace(CONFIG, **{"lambda_2": 8.0, **changes})
    return CollapseGuard(table.space, config, 100, np.zeros((9, 7), np.float32), is_limited)


def _logits(zero):
    logits = np.zeros((9, 7), np.float32)
    logits[:, -1] = zero
    return logits


def test_the_weight_of_zero_is_that_of_skippable_blocks(table):
    mixture = np.full((9, 7), 1 / 7)
    assert zero_weight(table.space, mixture) == pytest.approx(1 / 7)
    mixture[[b.is_skippable for b in table.space.blocks], -1] = 0.75
    assert zero_weight(table.space, mixture) == pytest.approx(0.75)


def test_it_looks_ahead_at_the_pace_so_far(table):
    """Half of log 6 ahead, and Zero has half of the weight when the logits go as far again."""
    half_way = np.log(6) / 2
    assert _guard(table).check(20, _logits(half_way - 0.01)) is None
    found = _guard(table).check(20, _logits(half_way + 0.01))
    assert found["expected_zero_weight"] == pytest.approx(0.5, abs=0.01) and found["is_restarted"]
    # Later on there is less way to go: a quarter of it.
    assert _guard(table).check(80, _logits(half_way + 0.01)) is None
    assert _guard(table).check(80, _logits(np.log(6) / 1.25 + 0.01)) is not None
    # Only at each tenth, and while there is a tenth left to decide anew.
    assert all(_guard(table).check(step, _logits(9.0)) is None for step in (7, 25, 99, 100))


def test_each_further_collapse_weakens_lambda_2_more(table):
    guard, factors = _guard(table), []
    for step in (10, 20, 30):
        collapse = guard.check(step, _logits(5.0))
        factors.append(guard.factor)
        assert collapse["lambda_2_after"] == pytest.approx(8.0 * guard.factor)
    assert factors == [4.0**-1, 4.0**-3, 4.0**-6]
    again = _guard(table)
    again.restore(guard.state())
    assert again.state() == guard.state()
    assert again.check(40, _logits(1.0)) == guard.check(40, _logits(1.0))


@pytest.mark.parametrize(
    ("is_limited", "changes"),
    [(False, {"lambda_2": 0.0}), (False, {"lambda_2_backoff": 1.0}), (True, {})],
)
def test_where_it_cannot_back_off_it_says_so_once(table, is_limited, changes):
    guard = _guard(table, is_limited, **changes)
    assert guard.check(50, _logits(5.0))["is_restarted"] is False
    assert guard.check(60, _logits(5.0)) is None and guard.factor == 1.0


def test_a_search_without_hardware_cost_is_left_alone(table):
    result = DanceSearch(dataclasses.replace(CONFIG, lambda_2=0.0), seed=1).search(_problem(table))
    assert result.collapses == () and result.warnings == () and result.zero_share <= 0.5


def test_a_far_too_large_hardware_cost_does_not_end_in_an_empty_network(table, tmp_path, capsys):
    config = dataclasses.replace(CONFIG, lambda_2=1e3)
    blunt = dataclasses.replace(config, lambda_2_backoff=1.0)
    empty = DanceSearch(blunt, seed=1).search(_problem(table))
    assert empty.zero_share == 1.0 and "100% of the skippable" in empty.warnings[-1]
    assert "on the way to" in empty.warnings[0] and "went from" not in empty.warnings[0]
    assert empty.history[-1].zero_weight > 0.9

    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    capsys.readouterr()
    whole = str(tmp_path / "whole")
    result = DanceSearch(config, seed=1, output_dir=whole).search(_problem(table))
    assert result.zero_share <= config.max_zero_share
    assert "lambda_2 went from 1000 to 250" in capsys.readouterr().err
    assert len(result.warnings) == len(result.collapses) > 1
    assert result.history[-1].lambda_2 < 1.0
    assert sum(result.op_counts.values()) == 9 and result.op_counts["zero"] <= 3
    network = build_network(table.space, result.architecture)
    assert sum(w.size for layer in network.layers for w in layer.get_weights()) > 1000

    def die(record):
        if record.step == 80:
            raise MemoryError

    cut = str(tmp_path / "cut")
    with pytest.raises(MemoryError):
        DanceSearch(config, seed=1, output_dir=cut).search(_problem(table), die)
    resumed = DanceSearch(config, seed=1, output_dir=cut, is_resuming=True).search(_problem(table))
    assert dataclasses.replace(resumed, times={}) == dataclasses.replace(result, times={})
    histories = [tmp_path / name / "history.jsonl" for name in ("whole", "cut")]
    assert histories[0].read_bytes() == histories[1].read_bytes()


def test_a_factor_above_one_is_refused():
    with pytest.raises(UserError, match="lambda_2_backoff is 2"):
        SearchConfig(lambda_2_backoff=2.0)
