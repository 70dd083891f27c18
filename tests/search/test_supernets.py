"""Searches on each supernet, by several gradients: they move the logits, and they resume."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dance_tf.config import SearchConfig
from dance_tf.errors import Interrupted, UserError
from dance_tf.run.surroundings import StopSignals
from dance_tf.search.dance import DanceSearch
from tests.search.problems import make_problem

CONFIG = SearchConfig(
    supernet="superkernel",
    epochs=2,
    warmup_epochs=1,
    batch_size=32,
    arch_learning_rate=0.05,
    arch_every=1,
    log_every=1,
)  # 3 steps an epoch


class _StopAfter(StopSignals):
    """Asks for a stop once `step` steps are logged."""

    def __init__(self, step):
        super().__init__()
        self._step = step

    def __call__(self, record):
        if record.step == self._step:
            self.requested = 15


def _moved_logits(result, space):
    logits = np.asarray([[v or 0.0 for v in row] for row in result.arch_logits])
    return np.ptp(logits[space.op_mask])


@pytest.mark.parametrize(
    ("supernet", "gradient"), [("superkernel", "straight_through"), ("proxyless", "two_path")]
)
def test_a_search_resumes_to_the_same_result(without_tracing, tmp_path, supernet, gradient):
    config = dataclasses.replace(CONFIG, supernet=supernet, arch_gradient=gradient)
    problem, folder = make_problem(), str(tmp_path)
    whole = DanceSearch(config, seed=2).search(problem)
    stop = _StopAfter(4)
    with pytest.raises(Interrupted):
        DanceSearch(config, seed=2, output_dir=folder, stop=stop).search(problem, stop)
    resumed = DanceSearch(config, seed=2, output_dir=folder, is_resuming=True).search(problem)
    assert dataclasses.replace(resumed, times={}) == dataclasses.replace(whole, times={})
    assert _moved_logits(whole, problem.space) > 0.05


def test_shared_weights_are_searched_by_the_score_function_too(without_tracing):
    problem = make_problem()
    result = DanceSearch(CONFIG, seed=2).search(problem)
    assert result.num_architecture_steps == 3
    assert _moved_logits(result, problem.space) > 0.05


def test_an_unknown_supernet_is_refused():
    with pytest.raises(UserError, match=r"search\.supernet is 'one_shot', not one of proxyless"):
        dataclasses.replace(CONFIG, supernet="one_shot")
