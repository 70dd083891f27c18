"""DANCE with a predictor of error: co-search by gradient, a training for each network derived.

The first networks are drawn at random. Then, again and again, the predictor is fitted to all
errors seen so far, and many co-searches run side by side, each on its own draw from the
predictor's posterior and its own lambda_2:

    a = softmax(alpha / t)
    alpha <- Adam(d/dalpha [log error_draw(a) + lambda_2 log cost(a)])

with the temperature t falling. The cost is that of the accelerator which is the exact best
one for the mixture at each step, and its gradient flows into the architecture parameters as
in DANCE. Beyond a limit a multiple of the excess is added, by which the accelerator is chosen
too. From the derived networks a few are chosen for training, one after the other: the one
that adds most to what is known, averaged over draws. For a front that is the hypervolume of
error and log cost, for one trade-off the fall of its least value.

Source: DANCE (2020), whose cross-entropy the predictor replaces; expected improvement and
its hypervolume form are those of Bayesian optimisation (Emmerich et al., 2006).

Differs from the paper: no supernet is trained; lambda_2 is a ladder; costs come from the
exact table, softly only through the mixture; networks that are trained steer the next steps.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from dance_tf.hardware.objective import Limits
from dance_tf.hardware.oracle import contender_rows
from dance_tf.search.accuracy.predictor import ErrorPredictor, FittedPredictor
from dance_tf.search.limits import NetworkFinder
from dance_tf.search.strategies.descent import CANNOT_RUN, cost_weights, descended
from dance_tf.search.strategies.problem import Pair, StrategyProblem, Trials

__all__ = ["CoSearches", "DancePredictor", "choose"]

_LIMIT_PENALTY = 5.0  # of log(error), for exceeding a limit by all of it
_POINTS = 0.15  # errors further above the least than this add nothing to a front
_NUM_REPAIRED = 4  # searches that are repaired exactly, where no simple repair keeps the limits
_NUM_DRAWS = 48  # of the posterior, that an expected gain is averaged over


class DancePredictor:
    """Gradient co-search under a predictor that is fitted to what has been trained.

    Args:
        num_first: Random networks at the beginning.
        num_chosen: Networks trained between two fits.
        num_searches: Co-searches that run side by side.
        num_steps: Architecture steps of each.
        inherited: Predictor fitted to errors with inherited weights; None: there is none.
        name: Name in results.
    """

    def __init__(
        self,
        num_first: int = 10,
        num_chosen: int = 8,
        num_searches: int = 64,
        num_steps: int = 50,
        inherited: FittedPredictor | None = None,
        name: str = "dance_predictor",
    ) -> None:
        self.name = name
        self._num_first, self._num_chosen = num_first, num_chosen
        self._num_searches, self._num_steps = num_searches, num_steps
        self._inherited = inherited

    def trials(self, problem: StrategyProblem, seed: int) -> Trials:
        """Yield networks on their exact best accelerators; see SearchStrategy."""
        rng, costs = np.random.default_rng(seed), problem.costs
        model = ErrorPredictor(problem.space, self._inherited)
        searches = CoSearches(problem, model, self._num_searches, self._num_steps)
        known: dict[tuple[int, ...], float] = {}
        first = _within(problem, rng, self._num_first)
        for ops in first:
            known[ops] = yield Pair(ops, costs.best(ops).accelerator)
        fitted: FittedPredictor | None = None
        while len(known) >= 2:
            fitted = model.fit(list(known), list(known.values()), fitted)
            pool = [
                ops
                for ops in searches.derive(fitted.draws(self._num_searches, rng), rng)
                if ops not in known
            ]
            if not pool:  # All that the searches find is known: look around it.
                pool = _around(problem, known, rng, self._num_searches)
            if not pool:
                return
            for ops in choose(problem, fitted, known, pool, self._num_chosen, rng):
                known[ops] = yield Pair(ops, costs.best(ops).accelerator)

    def believed_errors(
        self, problem: StrategyProblem, networks: np.ndarray, errors: np.ndarray
    ) -> np.ndarray:
        """Return the posterior means of the errors; see Believing."""
        return ErrorPredictor(problem.space, self._inherited).fit(networks, errors).errors(networks)


class CoSearches:
    """Co-searches that run side by side, each with its own predictor and its own lambda_2."""

    def __init__(
        self, problem: StrategyProblem, model: ErrorPredictor, num: int, num_steps: int
    ) -> None:
        self._problem, self._model, self._num, self._num_steps = problem, model, num, num_steps
        table, limits = problem.table, (problem.goal.limits or Limits()).vector
        rows = np.asarray(contender_rows(table))
        rows = rows[np.asarray(table.area_mm2, np.float32)[rows] <= limits[2]]
        latency_ms, energy_mj = (column[:, rows] for column in table.columns())
        sums = np.concatenate([latency_ms, energy_mj], axis=1)
        sums = tf.constant(np.where(np.isfinite(sums), sums, CANNOT_RUN), tf.float32)
        self._fixed, self._cells = sums[0], sums[1:]  # [2 C], [D * O, 2 C]
        self._area = tf.constant(np.asarray(table.area_mm2)[rows], tf.float32)
        self._limits, self._reference = limits, table.reference
        self._blocked = tf.constant(np.where(problem.space.op_mask, 0.0, -np.inf), tf.float32)

    def derive(self, coefficients: np.ndarray, rng: np.random.Generator) -> list[tuple[int, ...]]:
        """Return the different networks that the searches end in, all within the limits.

        Args:
            coefficients: Those of the predictor that each search goes by, [searches, F].
            rng: Source of the starts, and of lambda_2 for a front.
        """
        lambda_2 = cost_weights(self._problem.goal, self._num, rng)
        start = rng.normal(size=(self._num, *self._problem.space.op_mask.shape))
        logits = self._descend(
            tf.constant(start, tf.float32),
            tf.constant(coefficients, tf.float32),
            tf.constant(lambda_2, tf.float32),
        ).numpy()
        found: dict[tuple[int, ...], None] = {}
        rows = np.where(self._problem.space.op_mask, logits, -np.inf)
        for row in rows:
            ops = _repaired(self._problem, row)
            if ops is not None:
                found[ops] = None
        return list(found) or self._likeliest(rows[:_NUM_REPAIRED])

    def _likeliest(self, rows: np.ndarray) -> list[tuple[int, ...]]:
        """Return the networks within the limits that are the likeliest under logits [N, D, O]."""
        limits = self._problem.goal.limits
        if limits is None:
            return []
        finder = NetworkFinder(self._problem.table, limits)
        found: dict[tuple[int, ...], None] = {}
        for row in rows:
            losses = row.max(axis=1, keepdims=True) - row
            ops = finder.find(np.where(np.isfinite(losses), losses, 0.0))
            if ops is not None:
                found[tuple(ops.tolist())] = None
        return list(found)

    @tf.function(autograph=False)
    def _descend(self, start: tf.Tensor, draws: tf.Tensor, lambda_2: tf.Tensor) -> tf.Tensor:
        """Return the architecture parameters after all steps of Adam, float32 [B, D, O]."""

        def losses(logits: tf.Tensor, _: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
            mixture = tf.nn.softmax(logits / temperature + self._blocked)
            return self._losses(mixture, draws, lambda_2)

        return descended(start, self._num_steps, losses)

    def _losses(self, mixture: tf.Tensor, draws: tf.Tensor, lambda_2: tf.Tensor) -> tf.Tensor:
        log_errors = tf.reduce_sum(self._model.features(mixture) * draws, axis=1)
        flat = tf.reshape(mixture, [-1, self._cells.shape[0]])
        latency_ms, energy_mj = tf.split(self._fixed + tf.matmul(flat, self._cells), 2, axis=1)
        metrics = latency_ms, energy_mj, self._area
        objective = self._problem.goal.objective
        shares = [metric / unit for metric, unit in zip(metrics, self._reference, strict=True)]
        if objective.kind == "linear":
            total = sum(w * share for w, share in zip(objective.weights, shares, strict=True))
            log_costs = tf.math.log(total)
        else:
            logs = [w * tf.math.log(s) for w, s in zip(objective.weights, shares, strict=True) if w]
            log_costs = tf.add_n([tf.broadcast_to(log, tf.shape(latency_ms)) for log in logs])
        values = lambda_2[:, None] * log_costs
        for metric, limit in zip(metrics[:2], self._limits[:2], strict=True):
            if np.isfinite(limit):
                values += _LIMIT_PENALTY * tf.nn.relu(metric / limit - 1.0)
        return log_errors + tf.reduce_min(values, axis=1)


def _repaired(problem: StrategyProblem, logits: np.ndarray) -> tuple[int, ...] | None:
    """Return the network of the largest logits [D, O], or the likeliest that keeps to the limits.

    The latter among those that differ in one block; None if none does.
    """
    ops = tuple(np.argmax(logits, axis=1).tolist())
    if problem.costs.best(ops).accelerator >= 0:
        return ops
    losses = logits.max(axis=1, keepdims=True) - logits
    for place in np.argsort(losses, axis=None):
        block, op = divmod(int(place), losses.shape[1])
        if not np.isfinite(losses[block, op]):
            return None
        changed = (*ops[:block], op, *ops[block + 1 :])
        if problem.costs.best(changed).accelerator >= 0:
            return changed
    return None


def _within(problem: StrategyProblem, rng: np.random.Generator, num: int) -> list[tuple[int, ...]]:
    """Return different random networks that some accelerator runs within the limits."""
    found: dict[tuple[int, ...], None] = {}
    for _ in range(200 * num):
        ops = problem.random_network(rng)
        if problem.costs.best(ops).accelerator >= 0:
            found[ops] = None
        if len(found) == num:
            return list(found)
    if problem.goal.limits is not None:  # So tight that chance does not find them.
        finder = NetworkFinder(problem.table, problem.goal.limits)
        for _ in range(num - len(found)):
            drawn = finder.find(rng.random(problem.space.op_mask.shape))
            if drawn is not None:
                found[tuple(drawn.tolist())] = None
    return list(found)


def _around(
    problem: StrategyProblem,
    known: dict[tuple[int, ...], float],
    rng: np.random.Generator,
    num: int,
) -> list[tuple[int, ...]]:
    """Return networks that differ from known ones in one block or two, none of them known."""
    mask, networks = problem.space.op_mask, list(known)
    found: dict[tuple[int, ...], None] = {}
    for _ in range(20 * num):
        ops = list(networks[rng.integers(len(networks))])
        for block in rng.integers(len(ops), size=rng.integers(1, 3)):
            ops[block] = int(rng.choice(np.flatnonzero(mask[block])))
        changed = tuple(ops)
        if changed not in known and problem.costs.best(changed).accelerator >= 0:
            found[changed] = None
        if len(found) == num:
            break
    return list(found)


def choose(
    problem: StrategyProblem,
    fitted: FittedPredictor,
    known: dict[tuple[int, ...], float],
    pool: list[tuple[int, ...]],
    num: int,
    rng: np.random.Generator,
) -> list[tuple[int, ...]]:
    """Return the networks of a pool that add most to the known ones, each given those before."""
    if not pool:
        return []
    draws = fitted.draws(_NUM_DRAWS, rng)
    log_costs = np.asarray([problem.costs.best(ops).log_cost for ops in [*known, *pool]])
    features = fitted.model.features_of([*known, *pool])
    log_errors = features @ draws.T + fitted.centre  # [networks, draws]
    weight = problem.goal.cost_weight
    if weight is not None:
        values = log_errors + weight * log_costs[:, None]
        return [pool[i] for i in _falls(values[: len(known)], values[len(known) :], num)]
    errors = np.exp(log_errors)
    extent = max(np.ptp(log_costs), 1e-9)
    x = (log_costs - log_costs.min()) / extent
    y = np.clip((errors - errors.min(axis=0)) / _POINTS, 0.0, 1.0)
    num_known = len(known)
    return [
        pool[i] for i in _areas(x[:num_known], y[:num_known], x[num_known:], y[num_known:], num)
    ]


def _falls(known: np.ndarray, pool: np.ndarray, num: int) -> list[int]:
    """Return rows of a pool [N, S] whose values fall most below the least so far, on average."""
    least = known.min(axis=0) if len(known) else pool.max(axis=0)
    chosen: list[int] = []
    for _ in range(min(num, len(pool))):
        gains = np.maximum(least - pool, 0.0).mean(axis=1)
        gains[chosen] = -1.0
        row = int(np.argmax(gains - 1e-6 * pool.mean(axis=1)))
        chosen.append(row)
        least = np.minimum(least, pool[row])
    return chosen


def _areas(
    x: np.ndarray, y: np.ndarray, pool_x: np.ndarray, pool_y: np.ndarray, num: int
) -> list[int]:
    """Return rows of a pool that add most area to the fronts of what is known, on average.

    Args:
        x: Coordinates of the known, float64 [K].
        y: Others, one column for each draw, float64 [K, S]; both within 0..1.
        pool_x: Likewise, [N].
        pool_y: Likewise, [N, S].
        num: Number of rows to choose.
    """
    chosen: list[int] = []
    # Least y of what is known, as steps over the different x: [steps, S].
    edges = np.unique(np.concatenate([x, pool_x, [1.0]]))
    widths = np.diff(edges)[:, None]
    steps = np.ones((len(edges), y.shape[1]))
    np.minimum.at(steps, np.searchsorted(edges, x), y)
    steps = np.minimum.accumulate(steps, axis=0)[:-1]
    starts = np.searchsorted(edges, pool_x)
    for _ in range(min(num, len(pool_x))):
        gains = np.full(len(pool_x), -1.0)
        for row in range(len(pool_x)):
            if row not in chosen:
                below = np.maximum(steps[starts[row] :] - pool_y[row], 0.0)
                gains[row] = (widths[starts[row] :] * below).sum() / y.shape[1]
        row = int(np.argmax(gains - 1e-9 * pool_y.mean(axis=1)))
        chosen.append(row)
        steps[starts[row] :] = np.minimum(steps[starts[row] :], pool_y[row])
    return chosen
