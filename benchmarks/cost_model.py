"""Speed of the mapper and the oracle: warm seconds, and the amount of work done in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dance_tf.config import MachineConfig
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.layers import different_layers
from dance_tf.hardware.loopnest.mapper import LoopNestCostModel, count_mappings
from dance_tf.hardware.objective import EDAP
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.structs import Layer

__all__ = ["MapperSpeed", "OracleSpeed", "measure_mapper", "measure_oracle"]

#: Calls for single networks per sample; one call alone is too short for a clock.
_NUM_SINGLE = 100


class MapperSpeed(NamedTuple):
    """Time to find the best mapping of every (layer, accelerator)."""

    num_layers: int  # different ones
    num_mappings: int  # different ones that one full search of all layers evaluates
    compile_s: float  # what the first search took beyond the median of the later ones
    seconds: list[float]  # of each later search, enumeration included


class OracleSpeed(NamedTuple):
    """Time to find the exact best accelerator of networks."""

    num_networks: int
    first_s: float  # for the first network: compilation, and what is kept for later ones
    one_by_one_s: list[float]  # per network, one network a call
    together_s: list[float]  # all networks


def measure_mapper(
    layers: Sequence[Layer],
    accelerators: AcceleratorSpace,
    machine: MachineConfig,
    *,
    num_runs: int,
    on_run: Callable[[str, float], None] = lambda what, seconds: None,
) -> MapperSpeed:
    """Search the mappings of layers on all accelerators, several times.

    Args:
        layers: Layers; those of equal shape are searched once.
        accelerators: The accelerator space.
        machine: Machine around every accelerator.
        num_runs: Searches that are timed after a first one that compiles.
        on_run: Called with (what was done, seconds) after each search.
    """
    different = different_layers(layers)
    model, rows = LoopNestCostModel(machine), accelerators.all()
    first_s, *seconds = _repeat(lambda: model(different, rows), 1 + num_runs, "search", on_run)
    return MapperSpeed(
        num_layers=len(different),
        num_mappings=sum(count_mappings(layer, rows, machine, model.rule) for layer in different),
        compile_s=max(first_s - float(np.median(seconds)), 0.0),
        seconds=seconds,
    )


def measure_oracle(
    table: CostTable,
    op_indices: np.ndarray,
    *,
    num_runs: int,
    on_run: Callable[[str, float], None] = lambda what, seconds: None,
) -> OracleSpeed:
    """Ask for the EDAP-best accelerator of networks, one by one and all together.

    Args:
        table: Exact costs.
        op_indices: Networks of the table's space, int32 [B, D].
        num_runs: Samples of each figure.
        on_run: Called with (what was done, seconds) after each time.
    """
    num_networks, weights = len(op_indices), table.one_hot(op_indices)
    vectors = np.tile(EDAP.vector, (num_networks, 1))

    def ask(first: int, last: int) -> None:
        best = best_accelerators(table, weights[first:last], vectors[first:last])
        np.asarray(best.accelerator_index)  # the answer is there, not only asked for

    def one_by_one() -> None:
        for row in range(_NUM_SINGLE):
            ask(row % num_networks, row % num_networks + 1)

    (first_s,) = _repeat(lambda: ask(0, 1), 1, "first network", on_run)
    single = _repeat(one_by_one, num_runs, f"{_NUM_SINGLE} networks singly", on_run)
    _, *batch = _repeat(
        lambda: ask(0, num_networks), 1 + num_runs, f"{num_networks} networks together", on_run
    )
    return OracleSpeed(num_networks, first_s, [s / _NUM_SINGLE for s in single], batch)


def _repeat(
    work: Callable[[], object], times: int, what: str, on_run: Callable[[str, float], None]
) -> list[float]:
    """Return the seconds of each of `times` calls."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
        on_run(what, seconds[-1])
    return seconds
