"""Objectives: one number from latency, energy and area; lower is better.

An objective is data, so that it can be an input of a network: a row
[is_linear, w_latency, w_energy, w_area]. With metrics m normalised by reference
metrics r,

    product:  exp(sum_i w_i log(m_i / r_i))        (EDAP: all w_i = 1)
    linear:   sum_i w_i m_i / r_i

Both are 1 (or sum w_i) at the reference, whatever the units. Source of EDAP and
of the linear form: DANCE (2020), Cost_HW; the normalisation is ours.

>>> EDAP
Objective(kind='product', weights=(1.0, 1.0, 1.0))
>>> float(EDAP([2.0, 3.0, 1.0], reference=[1.0, 1.0, 1.0]).numpy().round(4))
6.0
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.structs import Array, check_objective

__all__ = ["EDAP", "Limits", "Objective", "objective_values", "random_objectives"]


@dataclasses.dataclass(frozen=True)
class Objective:
    """A product of powers or a linear combination of normalised metrics.

    >>> latency_squared = Objective("product", weights=(2.0, 1.0, 1.0))
    >>> metrics = np.float32([[2.0, 1.0, 1.0], [1.0, 3.0, 1.0]])  # ms, mJ, mm2
    >>> latency_squared(metrics, reference=np.ones(3, np.float32)).numpy().round(3)
    array([4., 3.], dtype=float32)
    """

    kind: str = "product"  # or "linear"
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)  # latency, energy, area

    def __post_init__(self) -> None:
        check_objective(self.kind, self.weights)

    @property
    def vector(self) -> np.ndarray:
        """The objective as data, float32 [4]."""
        return np.asarray([self.kind == "linear", *self.weights], np.float32)

    def __call__(self, metrics: Array, reference: Array) -> tf.Tensor:
        """Return the objective, float32 [...], of metrics [..., 3]."""
        return objective_values(tf.constant(self.vector), metrics, reference)


#: Energy-delay-area product.
EDAP = Objective()


@dataclasses.dataclass(frozen=True)
class Limits:
    """The most that a network may cost on an accelerator; None: no limit.

    Compared in float32, as metrics are reported: a limit at a reported value is kept.

    >>> Limits(max_latency_ms=0.5, max_area_mm2=4.0).vector
    array([0.5, inf, 4. ], dtype=float32)
    """

    max_latency_ms: float | None = None
    max_energy_mj: float | None = None
    max_area_mm2: float | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not is_number or not 0 < value < np.inf:
                raise UserError(f"limits: {field.name} is {value!r}, not a positive number")

    @property
    def vector(self) -> np.ndarray:
        """The limits in the order of structs.METRICS, float32 [3]; infinite for none."""
        values = dataclasses.astuple(self)
        return np.asarray([np.inf if value is None else value for value in values], np.float32)


def objective_values(
    vectors: Array,
    metrics: Array,
    reference: Array,
) -> tf.Tensor:
    """Return one value per row of metrics.

    Args:
        vectors: float32 [..., 4], broadcast against `metrics`.
        metrics: float32 [..., 3], positive; infinite where a network cannot run.
        reference: float32 [3], positive; the metrics at which a product is 1.
    Returns:
        float32 [...]; differentiable in the metrics.
    """
    vectors = tf.convert_to_tensor(vectors, tf.float32)
    normalised = tf.convert_to_tensor(metrics, tf.float32) / tf.convert_to_tensor(
        reference, tf.float32
    )
    is_linear, weights = vectors[..., 0], vectors[..., 1:]
    # A weight of 0 must not meet an infinite metric: 0 * inf is not a number.
    used = tf.where(weights > 0, normalised, tf.ones_like(normalised))
    linear = tf.reduce_sum(weights * used, axis=-1)
    product = tf.exp(tf.reduce_sum(weights * tf.math.log(used), axis=-1))
    return tf.where(is_linear > 0.5, linear, product)


def random_objectives(num: int, rng: np.random.Generator) -> np.ndarray:
    """Draw objectives, float32 [num, 4]: half products, half linear, corners included.

    Product weights are uniform on the simplex scaled to a sum of 3 (EDAP's), linear
    weights uniform on the simplex; one in eight asks for a single metric and one in
    eight is EDAP or the plain sum.
    """
    is_linear = rng.random(num) < 0.5
    weights = rng.dirichlet(np.ones(3), size=num)
    pick = rng.random(num)
    corner = np.eye(3)[rng.integers(0, 3, size=num)]
    weights = np.where((pick < 0.125)[:, None], corner, weights)
    weights = np.where(((pick >= 0.125) & (pick < 0.25))[:, None], 1.0 / 3.0, weights)
    weights = weights * np.where(is_linear, 1.0, 3.0)[:, None]
    return np.concatenate([is_linear[:, None], weights], axis=1).astype(np.float32)
