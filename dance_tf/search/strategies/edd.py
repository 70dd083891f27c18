"""EDD: ops and parallel factors as one set of variables, co-searched by gradient.

The variables of a search are an op choice theta, relaxed by the Gumbel softmax, and for each
block b the logarithm p_b = log2(PEs) of a parallel factor. They are trained together,

    a = softmax((theta + Gumbel noise) / t)
    theta, p <- Adam(d/d(theta, p) [log error(a) + w log perf(a, p) + beta C^(Res(p) - limit)])

with the temperature t falling. Res(p) is a smooth maximum over the blocks, since one array
runs them all, and its limit is the largest array within the limit on area. The error is the
posterior mean of a predictor, fitted again and again to all that has been trained; the first
networks are random ones. The perf is the goal's objective, either of

- "edd": latency = sum_b MACs_b(a) / (2^p_b * clock), energy = e * MACs(a), area = c_0 +
  c_1 2^Res(p), which know of no relation between a network and an accelerator, or of
- "edd_cost": DANCE's exact costs of the mixture, each block on arrays near its own 2^p_b.

At the end one array runs all blocks: of the arrays within the limits, the one whose number of
PEs is the nearest to 2^Res(p), the squarest of these. Its dataflow and register file are those
of the best accelerator for the uniform mixture of all ops.

Source: Li et al. (2020), EDD: Efficient Differentiable DNN Architecture and Implementation
Co-search for Embedded AI Solutions (DAC).

Differs from the paper:
- The predictor replaces the training of a supernet, and its log error the cross-entropy;
  error and perf are weighed as log(error) + w log(perf) instead of multiplied.
- There are no bit widths, and a parallel factor belongs to a block, not to each of its ops.
- The energy of a MAC and the area of an array are fitted to the space, not to an FPGA.
- Limits on latency and energy have the barrier of the resource.
- Searches run side by side, each with a w of its own where the goal asks for a front.
- Where all that is derived has been trained, neighbours of what has been trained follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import tensorflow as tf

from dance_tf.hardware.layers import op_macs
from dance_tf.hardware.objective import Limits
from dance_tf.search.accuracy.predictor import ErrorPredictor
from dance_tf.search.strategies.baselines import best_for_mixture
from dance_tf.search.strategies.descent import CANNOT_RUN, cost_weights, descended
from dance_tf.search.strategies.problem import Pair, StrategyProblem, Trials
from dance_tf.search.strategies.regularised_evolution import with_another_op

__all__ = ["Edd"]

_BETA, _C = 0.1, 1000.0  # of the barrier, whose exponent counts doublings beyond a limit
_MOST_DOUBLINGS = 3.0  # beyond a limit, from which on the barrier is flat
_SHARPNESS = 8.0  # of the smooth maximum over the blocks' parallel factors
_WIDTH = 0.25  # of the neighbourhood of a parallel factor, in doublings
_GRID = 24  # most numbers of PEs that the exact costs are taken at
_CERTAIN = 50.0  # logit of the op of a network that is not searched
_TRIES = 200  # draws for each random network that is wanted

_Ops: TypeAlias = tuple[int, ...]


class Edd:
    """Gradient co-search of ops and parallel factors.

    Args:
        kind: Costs that the searches go by, and the name.
        num_first: Random networks at the beginning.
        num_chosen: Most networks trained between two fits of the predictor.
        num_searches: Searches that run side by side.
        num_steps: Steps of each.
    """

    def __init__(
        self,
        kind: Literal["edd", "edd_cost"],
        num_first: int = 10,
        num_chosen: int = 8,
        num_searches: int = 32,
        num_steps: int = 40,
    ) -> None:
        self.name = kind
        self._num_first, self._num_chosen = num_first, num_chosen
        self._num_searches, self._num_steps = num_searches, num_steps

    def trials(self, problem: StrategyProblem, seed: int) -> Trials:
        """Yield networks on the arrays that their parallel factors project to."""
        rng, model = np.random.default_rng(seed), ErrorPredictor(problem.space)
        exact = self.name == "edd_cost"
        searches = _Searches(problem, model, exact, self._num_searches, self._num_steps)
        known: dict[_Ops, float] = {}
        first = searches.drawn(lambda: problem.random_network(rng), known, self._num_first)
        for pair in searches.settled(first, rng):
            known[pair.ops] = yield pair

        def neighbour() -> _Ops:
            trained = list(known)
            return with_another_op(trained[rng.integers(len(trained))], problem.space.op_mask, rng)

        fitted = None
        while len(known) > 1:  # The predictor needs two.
            fitted = model.fit(list(known), list(known.values()), fitted)
            pairs = searches.derived(fitted.coefficients, known, rng)
            if not pairs:
                around = searches.drawn(neighbour, known, self._num_chosen)
                pairs = searches.settled(around, rng)
            if not pairs:
                return
            for pair in pairs[: self._num_chosen]:
                known[pair.ops] = yield pair


class _Searches:
    """Searches of one problem that run side by side.

    Layers that all networks have are one more block, which has a single op.
    """

    def __init__(
        self,
        problem: StrategyProblem,
        model: ErrorPredictor,
        exact: bool,
        num: int,
        num_steps: int,
    ) -> None:
        self._problem, self._model, self._exact = problem, model, exact
        self._num, self._num_steps = num, num_steps
        limits = problem.goal.limits or Limits()
        table, mask = problem.table, problem.space.op_mask
        self._num_blocks, self._num_ops = mask.shape
        all_of = table.accelerators.all()
        fixed = best_for_mixture(problem)
        self._rows = np.flatnonzero(
            (all_of.dataflow == all_of.dataflow[fixed])
            & (all_of.rf_bytes == all_of.rf_bytes[fixed])
        )
        pe_x, pe_y = all_of.pe_x[self._rows], all_of.pe_y[self._rows]
        self._log2_pes = np.log2(pe_x * pe_y)
        self._skews = np.abs(np.log(pe_x / pe_y))
        area_mm2 = np.asarray(table.area_mm2)[self._rows]
        fits = area_mm2 <= limits.vector[2]
        self._largest = float(self._log2_pes[fits].max(initial=self._log2_pes.min()))
        # The squarest array of each number of PEs; if many, of some that are evenly spread.
        order = np.lexsort((self._skews, self._log2_pes))
        kept = order[np.unique(self._log2_pes[order], return_index=True)[1]]
        spread = np.linspace(self._log2_pes[kept[0]], self._log2_pes[kept[-1]], _GRID)
        away = np.abs(self._log2_pes[kept][:, None] - spread)
        kept = kept[np.unique(away.argmin(axis=0))]
        self._grid = tf.constant(self._log2_pes[kept], tf.float32)
        self._grid_area = tf.constant(area_mm2[kept], tf.float32)
        columns = np.stack(table.columns(), axis=-1)[:, self._rows[kept]]  # [1 + D * O, G, 2]
        columns = np.where(np.isfinite(columns), columns, CANNOT_RUN)
        cells = np.zeros((self._num_blocks + 1, self._num_ops, *columns.shape[1:]))
        cells[:-1], cells[-1, 0] = columns[1:].reshape(*mask.shape, *columns.shape[1:]), columns[0]
        self._cells = tf.constant(cells, tf.float32)
        fixed_macs, macs = op_macs(problem.space)
        macs = np.concatenate([macs, np.eye(1, self._num_ops) * fixed_macs])
        self._macs = tf.constant(macs, tf.float32)
        uniform = np.concatenate([mask / mask.sum(axis=1, keepdims=True), np.eye(1, self._num_ops)])
        energy_mj = np.einsum("do,dog->g", uniform, cells[..., 1])
        self._mj_per_mac = float(np.median(energy_mj) / (uniform * macs).sum())
        slope, constant = (
            np.polyfit(2.0**self._log2_pes, area_mm2, 1)
            if len(kept) > 1
            else (0.0, float(area_mm2[0]))
        )
        self._area = float(constant), float(slope)  # mm2, mm2 per PE
        self._limits = limits.vector
        nothing = np.zeros((1, *mask.shape), np.float32)
        self._none = np.zeros(model.features(nothing).shape[1])  # predicts nothing
        self._blocked = tf.constant(np.where(mask, 0.0, -np.inf), tf.float32)
        self._always = tf.constant(np.eye(1, self._num_ops)[None], tf.float32)

    def drawn(self, draw: Callable[[], _Ops], known: Mapping[_Ops, float], num: int) -> list[_Ops]:
        """Return different new networks that some array runs within the limits."""
        found: dict[_Ops, None] = {}
        for _ in range(_TRIES * num):
            ops = draw()
            if ops not in known and ops not in found and self._within(ops).any():
                found[ops] = None
            if len(found) == num:
                break
        return list(found)

    def derived(
        self, coefficients: np.ndarray, known: Mapping[_Ops, float], rng: np.random.Generator
    ) -> list[Pair]:
        """Return pairs of different new networks that searches from random starts end in.

        Args:
            coefficients: Those of the predictor, [F].
            known: Networks that are not new.
            rng: Source of the starts, of the noise, and of w for a front.
        """
        start = rng.normal(size=(self._num, self._num_blocks, self._num_ops))
        theta, log2_pes = self._trained(start, coefficients, rng)
        theta = np.where(self._problem.space.op_mask, theta, -np.inf)
        found: dict[_Ops, float] = {}
        for ops, wanted in zip(theta.argmax(axis=2).tolist(), log2_pes, strict=True):
            if tuple(ops) not in known:
                found.setdefault(tuple(ops), wanted)
        return self._projected(found)

    def settled(self, networks: Sequence[_Ops], rng: np.random.Generator) -> list[Pair]:
        """Return given networks on the arrays that their trained parallel factors project to."""
        wanted: dict[_Ops, float] = {}
        for at in range(0, len(networks), self._num):
            part = networks[at : at + self._num]
            start = np.zeros((self._num, self._num_blocks, self._num_ops))
            start[: len(part)] = _CERTAIN * np.eye(self._num_ops)[np.asarray(part)]
            log2_pes = self._trained(start, self._none, rng)[1]
            wanted |= dict(zip(part, log2_pes[: len(part)], strict=True))
        return self._projected(wanted)

    def _within(self, ops: _Ops) -> np.ndarray:
        costs = self._problem.costs
        return costs.is_within(costs.metrics(ops, self._rows))

    def _projected(self, wanted: Mapping[_Ops, float]) -> list[Pair]:
        """Return networks on the arrays nearest to log2 of the PEs that they want.

        Those that no array runs within the limits are left out.
        """
        pairs = []
        for ops, log2_pes in wanted.items():
            within = np.flatnonzero(self._within(ops))
            if len(within):
                away = np.abs(self._log2_pes[within] - log2_pes)
                nearest = within[np.lexsort((self._skews[within], away))[0]]
                pairs.append(Pair(ops, int(self._rows[nearest])))
        return pairs

    def _trained(
        self, theta: np.ndarray, coefficients: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return theta [B, D, O] and the resources, log2 of PEs, [B], of trained searches."""
        num, least = self._num, self._log2_pes.min()
        weights = cost_weights(self._problem.goal, num, rng)
        factors = rng.uniform(least, self._largest, size=(num, self._num_blocks + 1))
        start = np.concatenate([theta.reshape(num, -1), factors], axis=1)
        noise = rng.gumbel(size=(self._num_steps, *theta.shape))
        tensors = (tf.constant(x, tf.float32) for x in (start, noise, coefficients, weights))
        trained, resources = self._descend(*tensors)
        return trained.numpy(), resources.numpy()

    @tf.function(autograph=False)
    def _descend(
        self, start: tf.Tensor, noise: tf.Tensor, coefficients: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return theta, [B, D, O], and the resources, [B], after all steps of Adam."""

        def losses(variables: tf.Tensor, number: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
            theta, factors = self._split(variables)
            mixture = tf.nn.softmax((theta + noise[number]) / temperature + self._blocked)
            log_errors = tf.linalg.matvec(self._model.features(mixture), coefficients)
            return log_errors + self._costs(mixture, factors, weights)

        end = descended(start, self._num_steps, losses)
        theta, factors = self._split(end)
        return theta, _resource(factors)

    def _split(self, variables: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return theta, [B, D, O], and log2 of the parallel factors, [B, D + 1]."""
        num_thetas = self._num_blocks * self._num_ops
        theta = tf.reshape(variables[:, :num_thetas], [-1, self._num_blocks, self._num_ops])
        return theta, variables[:, num_thetas:]

    def _costs(self, mixture: tf.Tensor, factors: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Return w log perf and the barriers, [B]."""
        always = tf.repeat(self._always, tf.shape(mixture)[0], axis=0)
        mixture, resource = tf.concat([mixture, always], axis=1), _resource(factors)
        latency_ms, energy_mj, area_mm2 = (
            self._exact_metrics(mixture, factors, resource)
            if self._exact
            else self._own_metrics(mixture, factors, resource)
        )
        metrics = tf.stack([latency_ms, energy_mj, area_mm2], axis=1)
        perf = self._problem.goal.objective(metrics, self._problem.table.reference)
        doublings = [resource - self._largest]
        for metric, limit in zip((latency_ms, energy_mj), self._limits[:2], strict=True):
            if np.isfinite(limit):
                doublings.append(tf.math.log(metric / limit) / np.log(2.0))
        barriers = _C ** tf.minimum(tf.stack(doublings), _MOST_DOUBLINGS)
        return weights * tf.math.log(perf) + _BETA * tf.reduce_sum(barriers, axis=0)

    def _own_metrics(
        self, mixture: tf.Tensor, factors: tf.Tensor, resource: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return the metrics, [B] each, in closed form."""
        macs = tf.reduce_sum(mixture * self._macs, axis=2)
        cycles = tf.reduce_sum(macs / 2.0**factors, axis=1)
        latency_ms = cycles / self._problem.table.machine.cycles_per_ms
        constant, slope = self._area
        return (
            latency_ms,
            self._mj_per_mac * tf.reduce_sum(macs, axis=1),
            constant + slope * 2.0**resource,
        )

    def _exact_metrics(
        self, mixture: tf.Tensor, factors: tf.Tensor, resource: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return the table's metrics, [B] each, every block on arrays near its own factor."""
        cells = tf.einsum("bdg,dogm->bdom", self._near(factors), self._cells)
        sums = tf.reduce_sum(mixture[..., None] * cells, axis=[1, 2])
        return sums[:, 0], sums[:, 1], tf.linalg.matvec(self._near(resource), self._grid_area)

    def _near(self, log2_pes: tf.Tensor) -> tf.Tensor:
        """Return weights of the numbers of PEs, [..., G], that are near to others [...]."""
        return tf.nn.softmax(-0.5 * ((log2_pes[..., None] - self._grid) / _WIDTH) ** 2)


def _resource(factors: tf.Tensor) -> tf.Tensor:
    """Return the smooth maximum, [B], of log2 of the blocks' parallel factors, [B, D + 1]."""
    scale = _SHARPNESS * float(np.log(2.0))
    count = tf.cast(tf.shape(factors)[1], tf.float32)
    return (tf.reduce_logsumexp(scale * factors, axis=1) - tf.math.log(count)) / scale
