"""Hard limits on cost: keep a search within them, and say which are within reach.

LimitKeeper alters architecture steps that would leave a cost above its limit:

    violated: cost_i of the network that would be derived now > limit_i
    step'  =  step + the smallest vector with  gradient_i . step' <= -delta  for all violated i

delta is a share of the limit; it grows with each alteration and starts again after a step
that needs none. A step is altered again, by a further delta, where the first alteration
leaves another network above a limit to be derived, at most ten times.

NetworkFinder finds networks within limits by branch and bound over the blocks: an
accelerator drops out where the least that the blocks ahead add is too much, and Lagrange
multipliers on the shares of the limits bound the loss. Costs are those of the table, so
what is found within reach is.

Source: HDX (2022), the gradient manipulation.

Differs from the paper: HDX alters the gradient. Adam scales each coordinate of what it
gets, so that an altered gradient need not lower the cost; the step of the optimizer itself
is altered here. And a limit counts as violated where the network that would be derived
violates it, not the mixture, whose expected cost nobody has to pay.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from dance_tf.config import SearchConfig
from dance_tf.errors import UserError
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import Limits
from dance_tf.hardware.oracle import contender_rows
from dance_tf.protocols import Evaluator
from dance_tf.structs import METRICS
from dance_tf.supernet.supernet import Supernet

__all__ = [
    "LimitKeeper",
    "NetworkFinder",
    "check_reachable",
    "least_within",
    "reachable_costs",
    "smallest_correction",
]

# The most that a correction moves a logit: a factor of e in the odds. Where the mixture has
# hardened, gradients vanish and first-order steps would be endless.
_LARGEST_MOVE = 1.0

# Alterations of one step.
_MOST_CORRECTIONS = 10


def smallest_correction(step: np.ndarray, gradients: np.ndarray, fall: float) -> np.ndarray:
    """Return the smallest m with gradients @ (step + m) <= -fall, float64 [N].

    The conditions that hold with equality are found by trying all sets of them, smallest
    first. Where gradients point in opposite directions, so that no step lowers both, the
    one that the step raises most is corrected for.

    Args:
        step: float64 [N].
        gradients: float64 [K, N], K small.
        fall: Positive.
    """
    missing = gradients @ step + fall  # [K], positive where the fall is too small
    scale = np.abs(missing).max(initial=0.0) + fall
    for size in range(len(gradients) + 1):
        for rows in map(list, itertools.combinations(range(len(gradients)), size)):
            some = gradients[rows]
            multipliers = np.linalg.lstsq(some @ some.T, missing[rows], rcond=None)[0]
            correction = -some.T @ multipliers
            left = gradients @ correction + missing
            if (multipliers >= 0).all() and (left <= 1e-9 * scale).all():
                return correction
    worst = gradients[np.argmax(missing)]
    return -worst * missing.max() / max(float(worst @ worst), np.finfo(np.float64).tiny)


class LimitKeeper:
    """Alter architecture steps that leave the derived network above a limit.

    Args:
        supernet: Supernet whose architecture parameters are altered.
        evaluator: Evaluator that chooses accelerators within the limits, such as
            `judge.ChosenEvaluator`.
        limits: Limits on the network's cost.
        objective_vector: Objective by which the accelerator is chosen, float32 [4].
        config: Configuration, of which limit_delta and limit_growth are used.

    Attributes:
        delta: Least fall of a violated cost in a step, as a share of its limit.
    """

    def __init__(
        self,
        supernet: Supernet,
        evaluator: Evaluator,
        limits: Limits,
        objective_vector: np.ndarray,
        config: SearchConfig,
    ) -> None:
        self._supernet, self._evaluator = supernet, evaluator
        self._limits, self._vectors = limits.vector, tf.constant(objective_vector[None])
        self._start, self._growth = config.limit_delta, config.limit_growth
        self.delta = self._start

    def keep(self, before: np.ndarray) -> tuple[bool, float]:
        """Alter the step that has just been made, where it has to be.

        Args:
            before: Architecture parameters before the step, float32 [D, O].
        Returns:
            True if the step was altered; and the largest cost of the network that would be
            derived after the unaltered step, as a share of its limit, minus 1.
        """
        was_altered, excess = is_altered, _ = self._correct(before)
        for _ in range(_MOST_CORRECTIONS - 1):
            if not is_altered:
                break
            is_altered, _ = self._correct(self._supernet.arch_logits.numpy())
        if not was_altered:
            self.delta = self._start
        return was_altered, excess

    def _correct(self, before: np.ndarray) -> tuple[bool, float]:
        """Alter the step from `before` to where the logits are, once."""
        metrics, gradients = (np.asarray(x, np.float64) for x in self._look())
        excess = float((metrics / self._limits).max()) - 1.0
        gradients = gradients.reshape(2, -1)
        is_violated = metrics[:2].astype(np.float32) > self._limits[:2]
        is_violated &= np.isfinite(gradients).all(axis=1) & gradients.any(axis=1)
        if not is_violated.any():
            return False, excess
        logits = self._supernet.arch_logits
        after = logits.numpy()
        step = (after - before).ravel().astype(np.float64)
        move = smallest_correction(step, gradients[is_violated], self.delta)
        largest = np.abs(move).max()
        if largest > _LARGEST_MOVE:
            move *= _LARGEST_MOVE / largest
        logits.assign(after + move.reshape(after.shape).astype(np.float32))
        self.delta *= 1.0 + self._growth
        return True, excess

    @tf.function(autograph=False)
    def _look(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the derived network's metrics [3] and the gradients of the shares [2, D, O].

        The gradients are those of the mixture's latency and energy on the accelerator of
        the derived network, as shares of their limits. The area has none: it is the
        accelerator's.
        """
        logits = self._supernet.arch_logits.value
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(logits)
            mixture = self._supernet.mixture_weights()
            op_indices = tf.argmax(mixture, axis=-1)
            derived = tf.one_hot(op_indices, mixture.shape[-1])
            evaluation = self._evaluator.evaluate(derived[None], self._vectors)
            metrics = self._evaluator.estimate(mixture[None], evaluation.accelerator_index)[0]
            shares = tf.unstack(metrics[:2] / self._limits[:2])
        gradients = [tape.gradient(share, logits) for share in shares]
        return evaluation.metrics[0], tf.stack(gradients)


# Relative slack of the bounds, far above rounding: the exact test comes at the leaves.
_SLACK = 1e-6

# Stands for no limit.
_UNLIMITED = 1e30

# Stands for infinite in sums of shares of a limit, where 0 times it has to be 0.
_CANNOT_RUN = 1e25

# Lagrange multipliers, in loss for exceeding a limit by all of it. All of them give valid bounds.
_MULTIPLIERS = np.concatenate([[0.0], np.geomspace(1e-3, 1e5, 28)])


class NetworkFinder:
    """Networks that some accelerator runs within limits.

    Args:
        table: Exact costs of the space.
        limits: Limits on the cost of a network on an accelerator.
        rows: Accelerators to consider, int [C]; None: all that may be best for some network.
        op_mask: Ops to consider, bool [D, O]; None: all ops of the space.
    """

    def __init__(
        self,
        table: CostTable,
        limits: Limits,
        rows: np.ndarray | None = None,
        op_mask: np.ndarray | None = None,
    ) -> None:
        rows = contender_rows(table) if rows is None else np.asarray(rows)
        self.limits = limits
        self.rows = rows[np.asarray(table.area_mm2, np.float32)[rows] <= limits.vector[2]]
        self._costs = _Costs(table, self.rows, op_mask)
        budgets = np.minimum(limits.vector[:2].astype(np.float64), _UNLIMITED)[:, None]
        self._fixed = self._costs.fixed / budgets  # [2, C], shares of the limits
        self._cells = self._costs.cells / budgets[:, None, None]  # [2, D, O, C]
        # Each weighted sum of both shares has to stay below 1 as well, and is a new bound.
        is_both = np.isfinite(limits.vector[:2]).all()
        first = np.linspace(0.0, 1.0, 9 if is_both else 2)
        self._directions = np.stack([first, 1.0 - first], axis=1)  # [K, 2]

    def find(self, losses: np.ndarray | None = None) -> np.ndarray | None:
        """Return the network of the least loss that keeps the limits on some accelerator.

        Args:
            losses: Loss of each op, float64 [D, O], not negative; a network's loss is the
                sum over its ops. None: any network will do.
        Returns:
            Op indices, int32 [D]; None if there is no such network.
        """
        num_blocks, num_ops = self._cells.shape[1:3]
        losses = np.zeros((num_blocks, num_ops)) if losses is None else np.asarray(losses)
        shares = _weighted(self._directions, self._cells)  # [K, D, O, C]
        fixed = _weighted(self._directions, self._fixed)  # [K, C]
        least = _sums_after(shares.min(axis=2))  # [K, D + 1, C]
        is_alive = (fixed + least[:, 0] <= 1 + _SLACK).all(axis=0)
        if not is_alive.any():
            return None
        shares, fixed, least = (x[..., is_alive] for x in (shares, fixed, least))
        weighed = _MULTIPLIERS[:, None, None, None, None] * shares + losses[..., None]
        bounds = _sums_after(weighed.min(axis=3))  # [M, K, D + 1, C]

        order = itertools.count()  # of equal nodes the first goes first
        heap: list[tuple[float, int, float, int, tuple[int, ...]]] = [(0.0, 0, 0.0, 0, ())]
        while heap:
            _, _, _, _, ops = heapq.heappop(heap)
            depth = len(ops)
            if depth == num_blocks:
                return np.asarray(ops, np.int32)
            used = fixed + sum(shares[:, d, o] for d, o in enumerate(ops))  # [K, C]
            used = used[:, None] + shares[:, depth]  # [K, O, C]
            spent = losses[range(depth), ops].sum() + losses[depth]  # [O]
            ahead = used + least[:, depth + 1, None]
            can_end = (ahead <= 1 + _SLACK).all(axis=0)  # [O, C]
            excess = used - (1 + _SLACK)
            relaxed = bounds[:, :, depth + 1, None] + _MULTIPLIERS[:, None, None, None] * excess
            bound = np.where(can_end, relaxed.max(axis=(0, 1)), np.inf).min(axis=1) + spent
            slack = np.where(can_end, ahead.max(axis=0), np.inf).min(axis=1)
            for op in np.flatnonzero(np.isfinite(bound)):
                child = (*ops, int(op))
                if depth + 1 == num_blocks and not self.metrics_within(child).shape[0]:
                    continue
                # The deepest of equally good ones first: it is the nearest to an answer.
                node = (max(bound[op], spent[op]), -depth - 1, slack[op], next(order), child)
                heapq.heappush(heap, node)
        return None

    def metrics_within(self, op_indices: ArrayLike) -> np.ndarray:
        """Return a network's metrics, float32 [<= C, 3], where an accelerator keeps to limits."""
        metrics = self._costs.metrics(op_indices)
        is_within = np.isfinite(metrics).all(axis=1) & (metrics <= self.limits.vector).all(axis=1)
        return metrics[is_within]


class _Costs:
    """Costs of a table on some accelerators, float64.

    Attributes:
        fixed: [2, C], latency and energy of the fixed layers.
        cells: [2, D, O, C]; infinite where a block may not have the op.
        area_mm2: [C].
    """

    def __init__(
        self, table: CostTable, rows: np.ndarray, op_mask: np.ndarray | None = None
    ) -> None:
        mask = np.asarray(table.space.op_mask if op_mask is None else op_mask)
        columns = np.stack(table.columns())[:, :, rows].astype(np.float64)  # [2, 1 + D * O, C]
        cells = columns[:, 1:].reshape(2, *mask.shape, len(rows))
        self.fixed, self.cells = columns[:, 0], np.where(mask[..., None], cells, np.inf)
        self.area_mm2 = np.asarray(table.area_mm2)[rows]

    def metrics(self, op_indices: ArrayLike) -> np.ndarray:
        """Return a network's metrics, float32 [C, 3]."""
        blocks = np.arange(self.cells.shape[1])
        sums = self.fixed + self.cells[:, blocks, np.asarray(op_indices)].sum(axis=1)
        return np.stack([*sums, self.area_mm2], axis=1).astype(np.float32)


def _weighted(directions: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the weighted sums, [K, ...], of shares [2, ...]; huge where one is infinite."""
    can_run = np.isfinite(shares).all(axis=0)
    sums = np.tensordot(directions, np.where(can_run, shares, 0.0), axes=1)
    return np.where(can_run, sums, _CANNOT_RUN)


def _sums_after(values: np.ndarray) -> np.ndarray:
    """Return the sums over blocks d.. of values [..., D, C], as [..., D + 1, C]."""
    sums = np.cumsum(values[..., ::-1, :], axis=-2)[..., ::-1, :]
    return np.concatenate([sums, np.zeros_like(values[..., :1, :])], axis=-2)


def reachable_costs(
    table: CostTable, rows: np.ndarray | None = None, op_mask: np.ndarray | None = None
) -> dict[str, tuple[float, float]]:
    """Return the least and the largest of each metric over all networks and accelerators.

    Args:
        table: Exact costs of the space.
        rows: Accelerators to consider, int [C]; None: all.
        op_mask: Ops to consider, bool [D, O]; None: all ops of the space.
    Returns:
        (least, largest) by the names of structs.METRICS, of pairs that can run.
    Raises:
        UserError: If no network runs on any of them.
    """
    rows = np.arange(len(table.accelerators)) if rows is None else np.asarray(rows)
    costs = _Costs(table, rows, op_mask)
    least = costs.fixed + costs.cells.min(axis=2).sum(axis=1)  # [2, C]
    can_run = np.isfinite(least).all(axis=0)
    if not can_run.any():
        raise UserError("no network of the space runs on any of the accelerators")
    runs = np.where(np.isfinite(costs.cells), costs.cells, -np.inf)
    most = costs.fixed + runs.max(axis=2).sum(axis=1)
    area = costs.area_mm2[can_run]
    lows = [*least[:, can_run].min(axis=1), area.min()]
    highs = [*most[:, can_run].max(axis=1), area.max()]
    pairs = [(float(np.float32(x)), float(np.float32(y))) for x, y in zip(lows, highs, strict=True)]
    return dict(zip(METRICS, pairs, strict=True))


def least_within(
    table: CostTable,
    metric: str,
    limits: Limits,
    rows: np.ndarray | None = None,
    op_mask: np.ndarray | None = None,
) -> float | None:
    """Return the least value of a metric within the limits on the others, exact in float32.

    Args:
        table: Exact costs of the space.
        metric: One of structs.METRICS; its own limit is left aside.
        limits: Limits on the cost of a network on an accelerator.
        rows: Accelerators to consider, int [C]; None: all.
        op_mask: Ops to consider, bool [D, O]; None: all ops of the space.
    Returns:
        None if no pair keeps to the limits on the others.
    """
    column, field = METRICS.index(metric), f"max_{metric}"

    def find(most: float | None) -> float | None:
        finder = NetworkFinder(table, dataclasses.replace(limits, **{field: most}), rows, op_mask)
        ops = finder.find()
        return None if ops is None else float(finder.metrics_within(ops)[:, column].min())

    best = find(None)
    below = reachable_costs(table, rows, op_mask)[metric][0]
    if best is None:
        return None
    # Halve what is left, until no float32 is left between what is known.
    if below < best and (found := find(below)) is not None:
        return found
    while (middle := float(np.float32((below + best) / 2))) not in (below, best):
        found = find(middle)
        below, best = (middle, best) if found is None else (below, found)
    return best


def check_reachable(
    table: CostTable,
    limits: Limits,
    rows: np.ndarray | None = None,
    op_mask: np.ndarray | None = None,
) -> None:
    """Refuse limits that no network keeps to on any accelerator.

    Args:
        table: Exact costs of the space.
        limits: Limits on the cost of a network on an accelerator.
        rows: Accelerators to consider, int [C]; None: all.
        op_mask: Ops to consider, bool [D, O]; None: all ops of the space.
    Raises:
        UserError: With the least value within reach.
    """
    given = {
        metric: limit
        for metric, limit in zip(METRICS, dataclasses.astuple(limits), strict=True)
        if limit is not None
    }
    costs = reachable_costs(table, rows, op_mask)
    for metric, limit in given.items():
        least = costs[metric][0]
        if np.float32(limit) < np.float32(least):
            raise UserError(
                f"search.max_{metric} = {limit:g} is out of reach: the least is {_text(least)}"
            )
    if NetworkFinder(table, limits, rows, op_mask).find() is not None:
        return
    reasons = []
    for metric, limit in given.items():
        value = least_within(table, metric, limits, rows, op_mask)
        if value is not None:
            reasons.append(f"max_{metric} = {limit:g} would have to be {_text(value)}")
    names = " and ".join(f"search.max_{metric} = {limit:g}" for metric, limit in given.items())
    text = " or ".join(reasons) or "the least of each alone is within reach, but of no two"
    raise UserError(f"{names} are out of reach together: {text}")


def _text(value: float) -> str:
    """Return the shortest text that reads back as the same float32."""
    return str(np.float32(value))
