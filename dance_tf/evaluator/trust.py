"""Calibrate when a neural evaluator's answer is to be trusted."""

from __future__ import annotations

from typing import Any

import numpy as np

from dance_tf.evaluator.dataset import draw_architectures
from dance_tf.evaluator.neural import NeuralEvaluator, TrustThresholds
from dance_tf.hardware.objective import random_objectives

__all__ = ["calibrated_thresholds"]

_NUM_DRAWN = 8_192
_CHUNK = 256

# Share of typical answers that may be flagged, by each of the two thresholds.
_FLAGGED = 0.005

# Below these nothing is flagged: a regret that no user would see, an error like the mean.
_LEAST_REGRET, _LEAST_BOUND = 1e-5, 1e-3


def calibrated_thresholds(evaluator: NeuralEvaluator, seed: int) -> TrustThresholds:
    """Return thresholds that flag about one in a hundred answers to typical questions.

    Args:
        evaluator: Trained.
        seed: Of the questions: architectures hard and soft, and random objectives.
    """
    rng = np.random.default_rng([seed, 2])
    regrets: list[Any] = []
    bounds: list[Any] = []
    for _ in range(_NUM_DRAWN // _CHUNK):
        weights = draw_architectures(evaluator.domain.space, _CHUNK, 0.5, rng)
        vectors = random_objectives(_CHUNK, rng)
        trust = evaluator.trust(weights, vectors, evaluator.evaluate(weights, vectors))
        regrets.append(trust.predicted_regret)
        bounds.append(trust.error_bound)
    # Without interpolation: between infinities there is none.
    regret, bound = (
        float(np.quantile(np.concatenate(values), 1.0 - _FLAGGED, method="higher"))
        for values in (regrets, bounds)
    )
    return TrustThresholds(max(regret, _LEAST_REGRET), max(bound, _LEAST_BOUND))
