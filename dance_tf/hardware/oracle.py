"""The exact best accelerator of networks, hard or soft, under any objective and limits.

Exact means: as brute force over all accelerators in float64 decides. For many networks of
one table that is fast because most accelerators never come into question: another one is
no worse in area and in every cell of the table, and then it is no worse for any network
or mixture, under any objective and any limits.

Ties, within TIE_TOLERANCE of the least value, go to the smallest area, then energy,
latency and index.
"""

from __future__ import annotations

import bisect
import dataclasses
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.files import Json
from dance_tf.hardware.accelerator import AcceleratorSpace, accelerator_to_json
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.layer_costs import cost_layers
from dance_tf.hardware.layers import layer_key
from dance_tf.hardware.objective import EDAP, Limits, Objective
from dance_tf.protocols import CostModel, ExactCosts
from dance_tf.structs import METRICS, Array, Layer

__all__ = [
    "TIE_TOLERANCE",
    "Best",
    "NetworkCost",
    "best_accelerators",
    "contender_rows",
    "network_cost",
    "pareto_front",
    "rank_accelerators",
]

#: Relative difference of objectives below which accelerators are tied.
TIE_TOLERANCE = 2e-6

# Networks that go through the table at once: their costs stay in the caches.
_CHUNK = 512

# Layers between two reports of progress.
_PART = 8


class Best(NamedTuple):
    """Best accelerator of each of B architectures."""

    accelerator_index: tf.Tensor  # int32 [B]
    metrics: tf.Tensor  # float32 [B, 3]; infinite where no accelerator is feasible
    value: tf.Tensor  # float32 [B], the objective; likewise

    @property
    def is_feasible(self) -> tf.Tensor:
        """Whether some accelerator runs the network within the limits, bool [B]."""
        # Not of the value, which may be past what float32 holds.
        return tf.reduce_all(tf.math.is_finite(self.metrics), axis=-1)


def best_accelerators(
    table: ExactCosts,
    mixture_weights: Array,
    objective_vectors: Array,
    limits: Limits | None = None,
) -> Best:
    """Return the accelerator that minimises each objective, exactly.

    The choice has no gradient. Where no accelerator is feasible, `is_feasible` is False,
    metrics and value are infinite, and the index means nothing.

    >>> class TwoAccelerators:  # the first is fast, the second is frugal
    ...     reference = np.ones(3, np.float32)
    ...     def expected_metrics(self, mixture_weights):
    ...         return tf.constant([[[1.0, 4.0, 1.0], [2.0, 1.0, 1.0]]])
    >>> best = best_accelerators(TwoAccelerators(), np.ones((1, 1, 1)), EDAP.vector[None])
    >>> best.accelerator_index.numpy(), best.metrics.numpy()
    (array([1], dtype=int32), array([[2., 1., 1.]], dtype=float32))

    Args:
        table: Exact costs.
        mixture_weights: float32 [B, D, O]; B may be large.
        objective_vectors: float32 [B, 4] with weights that are not negative; see
            `objective`.
        limits: Most that the network may cost on the accelerator.
    """
    weights = tf.convert_to_tensor(mixture_weights, tf.float32)
    vectors = tf.convert_to_tensor(objective_vectors, tf.float32)
    reference = tf.constant(table.reference, tf.float32)
    most = tf.constant((limits or Limits()).vector)
    contenders = None
    if isinstance(table, CostTable):
        weights, contenders = table.as_weights(weights), _contenders(table)

    def choose(some_weights: tf.Tensor, some_vectors: tf.Tensor) -> Best:
        if contenders is not None:
            return _best_contender(some_weights, some_vectors, *contenders, reference, most)
        metrics = tf.cast(table.expected_metrics(some_weights), tf.float64)
        parts = metrics[..., 0], metrics[..., 1], metrics[0, :, 2]
        return _choose(*parts, some_vectors, reference, most)

    num = weights.shape[0]
    if num is None or num <= _CHUNK:
        return choose(weights, vectors)
    starts = range(0, num, _CHUNK)
    chunks = [choose(weights[s : s + _CHUNK], vectors[s : s + _CHUNK]) for s in starts]
    return Best(*(tf.concat(fields, axis=0) for fields in zip(*chunks, strict=True)))


def contender_rows(table: CostTable) -> np.ndarray:
    """Return the accelerators of a table that can be best for something, int32 [C], increasing.

    Each other one is no better than one of these for any network, under any objective.
    """
    return _contenders(table).rows.numpy()


def rank_accelerators(
    metrics: np.ndarray,
    objective: Objective,
    reference: np.ndarray | Sequence[float],
    limits: Limits | None = None,
    top_k: int = 1,
) -> np.ndarray:
    """Return the best accelerators of one network, best first.

    Each is the one that would be chosen if those before it were not there.

    >>> metrics = np.array([[3.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 9.0]])
    >>> rank_accelerators(metrics, EDAP, reference=np.ones(3), top_k=2)
    array([1, 0], dtype=int32)
    >>> rank_accelerators(metrics, EDAP, np.ones(3), Limits(max_energy_mj=1.0))
    array([0], dtype=int32)

    Args:
        metrics: Metrics of the network on every accelerator, [A, 3] in the order of
            structs.METRICS; infinite where it cannot run.
        objective: Objective to minimise.
        reference: Metrics at which the objective is 1, [3].
        limits: Most that the network may cost.
        top_k: Number of accelerators to return; fewer where fewer are feasible.
    Returns:
        Rows of `metrics`, int32 [<= top_k].
    Raises:
        UserError: If none is feasible; says what the least within reach is.
    """
    metrics = _checked_metrics(metrics)
    if top_k < 1:
        raise UserError(f"top_k is {top_k}, not at least 1")
    limits = limits or Limits()
    is_feasible = np.isfinite(metrics).all(axis=1)
    is_within = metrics.astype(np.float32) <= limits.vector
    rows = np.flatnonzero(is_feasible & is_within.all(axis=1))
    if not len(rows):
        raise UserError(_out_of_reach(metrics[is_feasible], is_within[is_feasible], limits))
    latency, energy, area = metrics[rows].T[:, None]
    vector, reference = objective.vector[None], np.asarray(reference, np.float32)
    values = _log_values(latency, energy, area, vector, reference).numpy()[0]
    order = np.argsort(values, kind="stable")
    rows, values = rows[order].tolist(), values[order].tolist()
    chosen: list[int] = []
    while rows and len(chosen) < top_k:
        num_tied = bisect.bisect_right(values, values[0] + np.log1p(TIE_TOLERANCE))
        first = min(range(num_tied), key=lambda i: (*metrics[rows[i], ::-1], rows[i]))
        chosen.append(rows.pop(first))
        values.pop(first)
    return np.asarray(chosen, np.int32)


def pareto_front(metrics: np.ndarray) -> np.ndarray:
    """Return the accelerators of one network that no other one beats.

    >>> pareto_front(np.array([[3.0, 1.0, 1.0], [1.0, 2.0, 1.0], [3.0, 2.0, 1.0]]))
    array([1, 0], dtype=int32)

    One is beaten by another that is no worse in all metrics and better in one. Of equal
    ones the first is on the front.

    Args:
        metrics: [A, 3] in the order of structs.METRICS; infinite where it cannot run.
    Returns:
        Rows of `metrics`, int32 [F], from the lowest latency to the highest.
    """
    metrics = _checked_metrics(metrics)
    rows = np.flatnonzero(np.isfinite(metrics).all(axis=1))
    return rows[_undominated(metrics[rows])].astype(np.int32)


def _checked_metrics(metrics: np.ndarray) -> np.ndarray:
    metrics = np.asarray(metrics, np.float64)
    if metrics.ndim != 2 or metrics.shape[1] != len(METRICS):
        raise ValueError(f"metrics have shape {metrics.shape}, not [A, {len(METRICS)}]")
    if np.isnan(metrics).any():
        raise ValueError("metrics hold a NaN")
    return metrics


def _out_of_reach(metrics: np.ndarray, is_within: np.ndarray, limits: Limits) -> str:
    """Return why no accelerator that can run the network, [A, 3], keeps to the limits."""
    if not len(metrics):
        return "the network can run on no accelerator"
    given = [
        (field.name, i, value)
        for i, field in enumerate(dataclasses.fields(limits))
        if (value := getattr(limits, field.name)) is not None
    ]
    for name, i, value in given:
        if not is_within[:, i].any():
            least = np.float32(metrics[:, i].min())
            return f"no accelerator is within {name} = {value:g}: the least is {least:.7g}"
    # Each limit can be kept, but not all: say it of the first that the others exclude.
    for name, i, value in given:
        keeps_others = is_within[:, [j for _, j, _ in given if j != i]].all(axis=1)
        if keeps_others.any():
            least = np.float32(metrics[keeps_others, i].min())
            return (
                f"no accelerator is within all limits: within the others, {METRICS[i]} is at"
                f" least {least:.7g}, above {name} = {value:g}"
            )
    text = ", ".join(f"{name} = {value:g}" for name, _, value in given)
    return f"no accelerator is within any two of {text}"


@dataclasses.dataclass(frozen=True)
class NetworkCost:
    """Exact cost of one network on every accelerator; infinite where it cannot run.

    Attributes:
        accelerators: The accelerator space, A rows.
        latency_cycles: float64 [A].
        energy_pj: float64 [A].
        metrics: float64 [A, 3], in the order of structs.METRICS.
    """

    accelerators: AcceleratorSpace
    latency_cycles: np.ndarray
    energy_pj: np.ndarray
    metrics: np.ndarray

    @property
    def reference(self) -> np.ndarray:
        """Metrics that normalise objectives, [3]: of the network on its EDAP-best accelerator."""
        return self.metrics[rank_accelerators(self.metrics, EDAP, np.ones(3))[0]]

    def best(
        self, objective: Objective = EDAP, limits: Limits | None = None, top_k: int = 1
    ) -> list[dict[str, Json]]:
        """Return the best accelerators with their metrics, best first, as plain JSON data.

        Raises:
            UserError: If the network runs nowhere, or nowhere within the limits.
        """
        rows = rank_accelerators(self.metrics, objective, self.reference, limits, top_k)
        return self._entries(rows, objective)

    def pareto(self, objective: Objective = EDAP) -> list[dict[str, Json]]:
        """Return the accelerators that no other beats in all three metrics, fastest first."""
        return self._entries(pareto_front(self.metrics), objective)

    def _entries(self, rows: np.ndarray, objective: Objective) -> list[dict[str, Json]]:
        values = np.asarray(objective(self.metrics[rows], self.reference)).tolist()
        return [
            {
                **accelerator_to_json(self.accelerators.decode(row)),
                **dict(zip(METRICS, self.metrics[row].tolist(), strict=True)),
                "latency_cycles": float(self.latency_cycles[row]),
                "energy_pj": float(self.energy_pj[row]),
                "area_um2": float(self.metrics[row, 2] * 1e6),
                "objective": value,
            }
            for row, value in zip(rows.tolist(), values, strict=True)
        ]


def network_cost(
    layers: Sequence[Layer],
    accelerators: AcceleratorSpace,
    model: CostModel,
    cycles_per_ms: float,
    on_progress: Callable[[int, int], None] | None = None,
) -> NetworkCost:
    """Return the cost of a network on every accelerator.

    Args:
        layers: At least one; those of equal shape are costed once.
        accelerators: The accelerator space.
        model: Cost model of the layers.
        cycles_per_ms: Cycles of the machine's clock in a millisecond.
        on_progress: Called with (layers done, layers of different shape) now and then.
    Raises:
        UserError: If a layer runs on no accelerator.
    """
    different = {layer_key(layer): layer for layer in layers}
    times = Counter(map(layer_key, layers))
    cycles, energy_pj, area_um2 = np.zeros((3, len(accelerators)))
    keys, rows = list(different), accelerators.all()
    for start in range(0, len(keys), _PART):
        part = keys[start : start + _PART]
        costs, area_um2 = cost_layers(model, [different[key] for key in part], rows)
        weights = np.asarray([times[key] for key in part], np.float64)
        cycles += weights @ costs.latency_cycles
        energy_pj += weights @ costs.energy_pj
        if on_progress is not None and len(keys) > _PART:
            on_progress(start + len(part), len(keys))
    metrics = np.stack([cycles / cycles_per_ms, energy_pj * 1e-9, area_um2 * 1e-6], axis=1)
    return NetworkCost(accelerators, cycles, energy_pj, metrics)


# Many networks of one table


class _Contenders(NamedTuple):
    """The C accelerators of a table that can be the best for something."""

    rows: tf.Tensor  # int32 [C], increasing
    fixed: tf.Tensor  # float64 [2 C], latency and energy of the fixed layers
    cells: tf.Tensor  # float64 [D * O, 2 C], of the cells; huge for infinite
    area_mm2: tf.Tensor  # float64 [C]


# Stands for infinite in sums: 0 times it is 0, and times the least float32 it is past _RUNS.
_CANNOT_RUN = 1e280
_RUNS = 1e200

_CONTENDERS: weakref.WeakKeyDictionary[CostTable, _Contenders] = weakref.WeakKeyDictionary()


def _contenders(table: CostTable) -> _Contenders:
    if table not in _CONTENDERS:
        latency_ms, energy_mj = table.columns()
        area_mm2 = np.asarray(table.area_mm2)
        rows = np.sort(_undominated(np.concatenate([area_mm2[None], latency_ms, energy_mj]).T))
        cells = np.concatenate([latency_ms[:, rows], energy_mj[:, rows]], axis=1)
        cells = np.where(np.isfinite(cells), cells.astype(np.float64), _CANNOT_RUN)
        with tf.init_scope():  # values, even where they are first asked for in a tf.function
            _CONTENDERS[table] = _Contenders(
                tf.constant(rows, tf.int32),
                tf.constant(cells[0]),
                tf.constant(cells[1:]),
                tf.constant(area_mm2[rows], tf.float64),
            )
    return _CONTENDERS[table]


def _undominated(points: np.ndarray) -> np.ndarray:
    """Return which points [N, M] no other one is <= in every coordinate, in lexical order.

    Of equal points the first stays.
    """
    rows = np.lexsort((np.arange(len(points)), *points.T[::-1]))
    points, kept = points[rows], []
    while len(rows):  # The lexically first of what is left is dominated by nothing.
        kept.append(rows[0])
        stays = (points < points[0]).any(axis=1)
        points, rows = points[stays], rows[stays]
    return np.asarray(kept, np.int64)


@tf.function(
    autograph=False,
    input_signature=(
        tf.TensorSpec([None, None, None], tf.float32),
        tf.TensorSpec([None, 4], tf.float32),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None], tf.float64),
        tf.TensorSpec([None, None], tf.float64),
        tf.TensorSpec([None], tf.float64),
        tf.TensorSpec([3], tf.float32),
        tf.TensorSpec([3], tf.float32),
    ),
)
def _best_contender(
    weights: tf.Tensor,
    vectors: tf.Tensor,
    rows: tf.Tensor,
    fixed: tf.Tensor,
    cells: tf.Tensor,
    area: tf.Tensor,
    reference: tf.Tensor,
    most: tf.Tensor,
) -> Best:
    """Return the best of the contenders; compiled once for all tables."""
    flat = tf.reshape(tf.cast(weights, tf.float64), [-1, tf.shape(cells)[0]])
    latency, energy = tf.split(fixed + tf.matmul(flat, cells), 2, axis=1)
    best = _choose(latency, energy, area, vectors, reference, most)
    return best._replace(accelerator_index=tf.gather(rows, best.accelerator_index))


def _choose(
    latency: tf.Tensor,
    energy: tf.Tensor,
    area: tf.Tensor,
    vectors: tf.Tensor,
    reference: tf.Tensor,
    most: tf.Tensor,
) -> Best:
    """Return the best column of each row.

    Args:
        latency: float64 [B, C]; energy likewise; above _RUNS where it cannot run.
        area: float64 [C].
        vectors: float32 [B, 4].
        reference: float32 [3].
        most: Limits, float32 [3].
    """

    def keeps(metric: tf.Tensor, limit: tf.Tensor) -> tf.Tensor:
        return (metric < _RUNS) & (tf.cast(metric, tf.float32) <= limit)

    is_feasible = keeps(latency, most[0]) & keeps(energy, most[1]) & keeps(area, most[2])
    infinite = tf.fill(tf.shape(latency), np.float64(np.inf))
    values = tf.where(is_feasible, _log_values(latency, energy, area, vectors, reference), infinite)
    least = tf.reduce_min(values, axis=1, keepdims=True)
    is_tied = is_feasible & (values <= least + np.log1p(TIE_TOLERANCE))
    for metric in (area, energy, latency):
        key = tf.where(is_tied, metric, infinite)
        is_tied &= key <= tf.reduce_min(key, axis=1, keepdims=True)
    index = tf.argmax(is_tied, axis=1, output_type=tf.int32)
    sums = [tf.gather(metric, index, batch_dims=1) for metric in (latency, energy)]
    metrics = tf.cast(tf.stack([*sums, tf.gather(area, index)], axis=1), tf.float32)
    is_any = tf.reduce_any(is_feasible, axis=1, keepdims=True)
    value = tf.cast(tf.exp(tf.gather(values, index, batch_dims=1)), tf.float32)
    return Best(index, tf.where(is_any, metrics, np.float32(np.inf)), value)


def _log_values(
    latency: Array, energy: Array, area: Array, vectors: Array, reference: Array
) -> tf.Tensor:
    """Return the logarithm of objectives, float64 [B, C]; of the products it is a sum."""
    vectors, reference = (tf.cast(x, tf.float64) for x in (vectors, reference))
    parts = [
        (vectors[:, i + 1, None], metric, reference[i])
        for i, metric in enumerate((latency, energy, area))
    ]
    linear = sum(weight / unit * metric for weight, metric, unit in parts)
    # A weight of 0 must not meet the logarithm of 0.
    product = sum(
        tf.math.multiply_no_nan(tf.math.log(metric / unit), weight)
        for weight, metric, unit in parts
    )
    return tf.where(vectors[:, :1] > 0.5, tf.math.log(linear), product)
