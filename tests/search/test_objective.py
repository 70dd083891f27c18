"""The objective of a config, and the schedule of its weight."""

import dataclasses

import numpy as np
import pytest

from dance_tf.config import SearchConfig
from dance_tf.search.objective import Lambda2Schedule, make_objective

REFERENCE = np.asarray([2.0, 3.0, 4.0], np.float32)


def test_edap_is_the_product_of_normalised_metrics():
    objective = make_objective(SearchConfig(objective="EDAP"))
    assert float(objective(REFERENCE, REFERENCE)) == pytest.approx(1.0)
    assert float(objective([4.0, 1.5, 4.0], REFERENCE)) == pytest.approx(1.0)
    assert float(objective([4.0, 6.0, 8.0], REFERENCE)) == pytest.approx(8.0)


def test_linear_weighs_each_metric():
    config = SearchConfig(objective="linear", lambda_latency=0.5, lambda_energy=2, lambda_area=0)
    assert float(make_objective(config)([4.0, 1.5, np.inf], REFERENCE)) == pytest.approx(2.0)


def test_lambda_2_rises_linearly_then_holds():
    schedule = Lambda2Schedule(0.8, warmup_steps=4)
    assert [schedule(step) for step in (0, 1, 2, 4, 9)] == pytest.approx([0, 0.2, 0.4, 0.8, 0.8])
    assert dataclasses.replace(schedule, warmup_steps=0)(0) == 0.8
