"""Stochastic coordinate descent to a latency target, after FPGA/DNN co-design.

First the bundles: an op on a dataflow is kept unless another has as many MACs and costs less.
Then, for a latency target in turn:

1. Draw a network of kept ops, on its exact best accelerator.
2. While the latency is not within 5 % of the target, pick a coordinate at random (depth,
   expansion, kernel size, or a field of the accelerator), estimate by how much a unit of it
   changes the latency, and move by gap / change units, within bounds.
3. Undo moves that break the other limits; train the pair when the target is reached.

Nothing is learnt from the errors: the best of the candidates is the result.

Differs from the paper:
- A network may mix ops, instead of repeating one bundle; bundles are told apart by cost and
  MACs, not by a short training.
- The target is the limit on latency. Without one there are five targets in turn, spread
  over the latencies of the space.
- Accelerators are those of the space, not tiles of an FPGA; the resource is area and energy.

Source: Hao et al. (2019), FPGA/DNN Co-Design (DAC), section 5.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from dance_tf.hardware.layers import op_macs
from dance_tf.hardware.objective import Limits
from dance_tf.search.strategies.problem import Pair, PairCosts, StrategyProblem, Trials
from dance_tf.supernet.op_names import op_kernel_expansion

__all__ = ["CoordinateDescent"]

#: Distance from the target, as a share of it, at which a pair is accepted.
_TOLERANCE = 0.05

#: Moves after which a candidate is given up; candidates in a row, given up or known, that end it.
_MOST_MOVES = 60
_MOST_FAILURES = 200

#: Latency targets between the least and the most of the space, as shares of the way in log.
_TARGETS = (0.1, 0.3, 0.5, 0.7, 0.9)


class CoordinateDescent:
    """Candidates near latency targets, without learning."""

    name = "coordinate_descent"

    def trials(self, problem: StrategyProblem, seed: int) -> Trials:
        """Yield pairs that have reached their target; see SearchStrategy."""
        descent, num_failures = _Descent(problem, np.random.default_rng(seed)), 0
        known: set[tuple[int, ...]] = set()
        for target_ms in itertools.cycle(descent.targets_ms()):
            pair = descent.candidate(target_ms)
            if pair is not None:
                yield pair
            if pair is not None and pair.ops not in known:
                known.add(pair.ops)
                num_failures = 0
                continue
            num_failures += 1
            if num_failures == _MOST_FAILURES:
                return


class _Descent:
    """Moves of one problem."""

    def __init__(self, problem: StrategyProblem, rng: np.random.Generator) -> None:
        self._problem, self._rng, self._costs = problem, rng, problem.costs
        limits = problem.goal.limits
        self._limit_ms = None if limits is None else limits.max_latency_ms
        # Latency is what the descent goes for; the other limits it keeps.
        self._without = dataclasses.replace(limits or Limits(), max_latency_ms=None)
        goal = dataclasses.replace(problem.goal, limits=self._without)
        self._others = PairCosts(problem.table, goal)
        self._blocks, (fixed, cells) = np.arange(problem.space.num_blocks), _latencies_ms(problem)
        self._fixed_ms, self._cells_ms = fixed, cells
        sizes = problem.table.accelerators.head_sizes
        self._strides = np.asarray([int(np.prod(sizes[i + 1 :])) for i in range(len(sizes))])
        self._kinds = [op_kernel_expansion(op) for op in problem.space.op_names]
        self._kept, self._dataflows = self._bundles()

    def targets_ms(self) -> list[float]:
        """Return the latencies to aim at."""
        if self._limit_ms is not None:
            return [self._limit_ms * (1 - _TOLERANCE / 2)]
        macs = np.where(self._problem.space.op_mask, op_macs(self._problem.space)[1], np.nan)
        ends = []
        for network in (np.nanargmin(macs, axis=1), np.nanargmax(macs, axis=1)):
            best = self._others.best(tuple(network.tolist()))
            if best.accelerator < 0:
                best = self._costs.at(network, int(self._costs.metrics(network)[:, 0].argmin()))
            ends.append(np.log(best.metrics[0]))
        return [float(np.exp(ends[0] + share * (ends[1] - ends[0]))) for share in _TARGETS]

    def candidate(self, target_ms: float) -> Pair | None:
        """Return a pair at a target, None where it is not reached."""
        rng = self._rng
        ops = [int(rng.choice(np.flatnonzero(row))) for row in self._kept]
        row = self._others.best(ops).accelerator
        if row < 0:
            return None
        heads = self._problem.table.accelerators.head_indices(row)
        for _ in range(_MOST_MOVES):
            gap = target_ms - self._latency_ms(ops, heads)
            if abs(gap) <= _TOLERANCE * target_ms:
                pair = Pair(tuple(ops), self._row(heads))
                if self._costs.is_within(self._costs.at(*pair).metrics):
                    return pair
            coordinate = int(rng.integers(3 + len(heads)))
            if coordinate < 3:
                moved = self._with_ops_moved(ops, heads, coordinate, gap), heads
            else:
                moved = ops, self._with_field_moved(ops, heads, coordinate - 3, gap)
            if self._keeps_others(moved[0], self._row(moved[1])):
                ops, heads = moved
        return None

    def _with_ops_moved(
        self, ops: list[int], heads: np.ndarray, coordinate: int, gap_ms: float
    ) -> list[int]:
        """Return the network with depth (0), kernel (1) or expansion (2) moved in blocks."""
        cells_ms, changes = self._cells_ms[self._row(heads)], {}
        for block, op in enumerate(ops):
            other = self._next_op(block, op, coordinate, up=gap_ms > 0)
            if other is not None:
                changes[block] = (other, float(cells_ms[block, other] - cells_ms[block, op]))
        if not changes:
            return ops
        unit_ms = sum(change_ms for _, change_ms in changes.values()) / len(changes)
        num = min(max(round(gap_ms / unit_ms), 0), len(changes)) if unit_ms else 0
        moved = list(ops)
        for block in self._rng.permutation(list(changes))[:num]:
            moved[block] = changes[block][0]
        return moved

    def _next_op(self, block: int, op: int, coordinate: int, up: bool) -> int | None:
        """Return the nearest op of a block that is one unit up or down a coordinate."""
        kind, there = self._kinds[op], np.flatnonzero(self._kept[block])
        if coordinate == 0:  # left out or not
            if up != (kind is None):
                return None
            choices = [int(o) for o in there if (self._kinds[o] is None) != (kind is None)]
            return int(self._rng.choice(choices)) if choices else None
        if kind is None:
            return None
        steps = {}
        for other in there:
            other_kind = self._kinds[other]
            if other_kind is not None:
                along = other_kind[coordinate - 1] - kind[coordinate - 1]
                if along * (1 if up else -1) > 0:
                    steps[int(other)] = (
                        abs(along),
                        abs(other_kind[2 - coordinate] - kind[2 - coordinate]),
                    )
        return min(steps, key=steps.__getitem__) if steps else None

    def _with_field_moved(
        self, ops: list[int], heads: np.ndarray, field: int, gap_ms: float
    ) -> np.ndarray:
        """Return positions of an accelerator's fields, one moved towards the target."""
        size = self._problem.table.accelerators.head_sizes[field]
        moved, now_ms = heads.copy(), self._latency_ms(ops, heads)
        if field == len(heads) - 1:  # dataflows have no order
            moved[field] = self._rng.choice(self._dataflows)
            is_nearer = abs(gap_ms - (self._latency_ms(ops, moved) - now_ms)) < abs(gap_ms)
            return moved if is_nearer else heads
        unit = 1 if heads[field] + 1 < size else -1
        if size == 1:
            return heads
        moved[field] += unit
        unit_ms = self._latency_ms(ops, moved) - now_ms
        num = round(min(max(gap_ms / unit_ms, -size), size)) if unit_ms else 0
        moved[field] = min(max(int(heads[field]) + unit * num, 0), size - 1)
        return moved

    def _row(self, heads: np.ndarray) -> int:
        return int(heads @ self._strides)

    def _latency_ms(self, ops: list[int], heads: np.ndarray) -> float:
        row = self._row(heads)
        return float(self._fixed_ms[row] + self._cells_ms[row, self._blocks, ops].sum())

    def _keeps_others(self, ops: list[int], row: int) -> bool:
        """Return whether a pair keeps to the limits but for the one on latency."""
        if self._without == Limits():
            return True
        return bool(self._others.is_within(self._others.at(ops, row).metrics))

    def _bundles(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ops that each block keeps, bool [D, O], and the dataflows kept."""
        space, table = self._problem.space, self._problem.table
        latency_ms, energy_mj = (c[1:].reshape(*space.op_mask.shape, -1) for c in table.columns())
        dataflow = table.accelerators.head_indices()[:, -1]
        macs = op_macs(space)[1]
        kept, dataflows = np.zeros_like(space.op_mask), set()
        for block, is_there in enumerate(space.op_mask):
            bundles = []
            for op in np.flatnonzero(is_there):
                edap = latency_ms[block, op] * energy_mj[block, op] * table.area_mm2
                for flow in np.unique(dataflow):
                    cost = float(edap[dataflow == flow].min())
                    bundles.append((macs[block, op], cost, int(op), int(flow)))
            for bundle in bundles:
                is_beaten = any(
                    b[0] >= bundle[0] and b[1] <= bundle[1] and b[:2] != bundle[:2] for b in bundles
                )
                if not is_beaten and np.isfinite(bundle[1]):
                    kept[block, bundle[2]] = True
                    dataflows.add(bundle[3])
        return kept, np.asarray(sorted(dataflows))


def _latencies_ms(problem: StrategyProblem) -> tuple[np.ndarray, np.ndarray]:
    """Return the latencies of the fixed layers, float64 [A], and of the ops, [A, D, O]."""
    latency_ms = problem.table.columns()[0].astype(np.float64)
    shape = problem.space.op_mask.shape
    return latency_ms[0], np.moveaxis(latency_ms[1:].reshape(*shape, -1), -1, 0)
