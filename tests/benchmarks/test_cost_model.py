"""What the benchmark counts and times is the work that it says."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import cost_model
from dance_tf.config import AcceleratorSpaceConfig, MachineConfig
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.layers import conv, depthwise
from dance_tf.hardware.loopnest.mapper import count_mappings
from dance_tf.structs import Layer
from tests.evaluator.fake_table import make_fake_table

TWO = AcceleratorSpace(
    AcceleratorSpaceConfig(pe_x=(4, 8), pe_y=(4,), rf_bytes=(32,), dataflow=("row_stationary",))
)


def _layers() -> list[Layer]:
    layer = conv("a", in_channels=4, out_channels=6, output_size=4, kernel=3)
    twin = conv("of another name", in_channels=4, out_channels=6, output_size=4, kernel=3)
    return [layer, twin, depthwise("b", channels=4, output_size=4, kernel=3)]


def test_mapper_counts_each_different_layer_once_and_times_each_search():
    told: list[tuple[str, float]] = []
    layers = _layers()
    speed = cost_model.measure_mapper(
        layers, TWO, MachineConfig(), num_runs=2, on_run=lambda *run: told.append(run)
    )
    assert speed.num_layers == 2
    singles = [count_mappings(layer, TWO.all(), MachineConfig()) for layer in layers[1:]]
    assert speed.num_mappings == sum(singles) > 10
    assert [seconds for _, seconds in told][1:] == speed.seconds
    assert len(speed.seconds) == 2 and min(speed.seconds) > 0
    first = told[0][1]
    assert speed.compile_s == pytest.approx(max(first - np.median(speed.seconds), 0))


def test_oracle_is_asked_for_every_network(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    real = cost_model.best_accelerators

    def spy(table: CostTable, weights, vectors):
        asked.append(len(weights))
        return real(table, weights, vectors)

    monkeypatch.setattr(cost_model, "best_accelerators", spy)
    table = make_fake_table()
    networks = table.space.sample(30, seed=0)
    speed = cost_model.measure_oracle(table, networks, num_runs=2)
    assert speed.num_networks == 30
    assert len(speed.one_by_one_s) == len(speed.together_s) == 2
    assert asked.count(30) == 3 and asked.count(1) == len(asked) - 3
    assert min(speed.one_by_one_s + speed.together_s) > 0 and speed.first_s > 0
