"""One made-up table for all tests of the evaluator."""

from __future__ import annotations

import pytest

from dance_tf.hardware.cost_table import CostTable
from tests.evaluator.fake_table import make_fake_table


@pytest.fixture(scope="session")
def table() -> CostTable:
    """Two blocks, 54 accelerators."""
    return make_fake_table()
