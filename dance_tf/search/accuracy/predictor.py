"""Predictor of a network's error from the errors of a few trained ones.

A Bayesian linear model of log(error), which is a polynomial in the mixture weights a[d, o] of
the ops and so takes the place of the cross-entropy in an architecture step:

    log(error) = m + sum_d u_d . a_d + sum_{d < e} a_d . V_de . a_e + c_1 s + c_2 s^2
                 (+ c_3 q + c_4 q^2) + noise

with s the logarithm of the expected multiply-accumulates and q what inherited accuracies say,
both standardised, and a centred. Each group of coefficients has a normal prior of a variance
of its own; the variances, and that of the noise, which is how trainings of one network
scatter, are those of the largest marginal likelihood. Draws from the posterior say how
uncertain a prediction is.

Source: linear regression on ops for choosing networks is common (Wen et al., 2020, "Neural
Predictor"; White et al., 2021); marginal likelihood and draws from Rasmussen and Williams
(2006), "Gaussian Processes for Machine Learning", chapters 2 and 5; the draws by Matheron's
rule (Wilson et al., 2020).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from scipy import optimize

from dance_tf.errors import UserError
from dance_tf.hardware.layers import op_macs
from dance_tf.structs import Array
from dance_tf.supernet.search_space import NetworkSpace

__all__ = ["ErrorPredictor", "FittedPredictor"]

#: Standard deviations of log(error) that each group of coefficients is expected to explain,
#: and that of the noise: where the search for the variances begins and what draws them back.
_USUAL = {"mean": 0.3, "ops": 0.2, "pairs": 0.07, "size": 0.2, "size2": 0.1, "inherited": 0.3}
_USUAL_NOISE = 0.02
_PRIOR_STDDEV = 2.0  # of the logarithms of the variances, around the usual ones
_LEAST_ERROR = 1e-4  # a lower one is taken for this


class ErrorPredictor:
    """Model of log(error) of the networks of a space; `fit` gives it data.

    >>> import dance_tf
    >>> from dance_tf.config import SpaceConfig
    >>> space = dance_tf.make_space(SpaceConfig("nas_bench_macro"))
    >>> networks = space.sample(40, seed=0)
    >>> errors = 0.3 - 0.03 * (networks > 0).sum(axis=1)  # made up: each MBConv helps
    >>> fitted = ErrorPredictor(space).fit(networks, errors)
    >>> bool(np.abs(fitted.errors(networks) - errors).max() < 0.01)
    True

    Args:
        space: Network space.
        inherited: A predictor fitted to errors with inherited weights, whose prediction
            becomes a feature; None: there is none.
    """

    def __init__(self, space: NetworkSpace, inherited: FittedPredictor | None = None) -> None:
        self.space, self._inherited = space, inherited
        mask = np.asarray(space.op_mask, np.float32)
        self._centre = mask / mask.sum(axis=1, keepdims=True)
        self._always, macs = op_macs(space)
        self._macs = macs.astype(np.float32)
        drawn = space.sample(512, seed=0)
        logs = np.log(self._always + self._macs[np.arange(space.num_blocks), drawn].sum(axis=1))
        self._log_macs = float(logs.mean()), max(float(logs.std()), 1e-6)
        self._upper = np.triu_indices(space.num_blocks, 1)
        self._inherited_scale = 0.0, 1.0
        if inherited is not None:
            values = np.log(inherited.errors(drawn))
            self._inherited_scale = float(values.mean()), max(float(values.std()), 1e-6)
        sizes = {
            "mean": 1,
            "ops": space.num_blocks * space.num_ops,
            "pairs": len(self._upper[0]) * space.num_ops**2,
            "size": 1,
            "size2": 1,
        }
        if inherited is not None:
            sizes |= {"inherited": 2}
        self._groups = np.repeat(np.arange(len(sizes)), list(sizes.values()))
        typical = self._typical_squares(drawn)
        usual = np.asarray([_USUAL[name] for name in sizes]) ** 2
        self._usual = np.log([*(usual / typical), _USUAL_NOISE**2])

    def _typical_squares(self, drawn: np.ndarray) -> np.ndarray:
        """Return the mean square length of each group's features over drawn networks."""
        squares = np.square(self.features_of(drawn)).mean(axis=0)
        return np.maximum(np.bincount(self._groups, squares), 1e-12)

    def features(self, mixture_weights: Array) -> tf.Tensor:
        """Return the features, float32 [B, F], of mixture weights [B, D, O]; differentiable."""
        weights = tf.convert_to_tensor(mixture_weights, tf.float32)
        num = tf.shape(weights)[0]
        centred = weights - self._centre
        first, second = (tf.gather(centred, at, axis=1) for at in self._upper)
        pairs = first[..., :, None] * second[..., None, :]
        macs = self._always + tf.reduce_sum(weights * self._macs, axis=[1, 2])
        size = ((tf.math.log(macs) - self._log_macs[0]) / self._log_macs[1])[:, None]
        parts = [
            tf.ones_like(size),
            tf.reshape(centred, [num, centred.shape[1] * centred.shape[2]]),
            tf.reshape(pairs, [num, pairs.shape[1] * pairs.shape[2] * pairs.shape[3]]),
            size,
            size**2 - 1.0,
        ]
        if self._inherited is not None:
            mean, scale = self._inherited_scale
            q = ((self._inherited.log_errors(weights) - mean) / scale)[:, None]
            parts += [q, q**2 - 1.0]
        return tf.concat(parts, axis=1)

    def features_of(self, op_indices: ArrayLike) -> np.ndarray:
        """Return the features, float64 [B, F], of networks int [B, D]."""
        one_hot = np.eye(self.space.num_ops, dtype=np.float32)[np.asarray(op_indices)]
        return self.features(one_hot).numpy().astype(np.float64)

    def fit(
        self, op_indices: ArrayLike, errors: ArrayLike, start: FittedPredictor | None = None
    ) -> FittedPredictor:
        """Fit the model to the errors of trained networks.

        Args:
            op_indices: Networks, int [N, D], N at least 2.
            errors: Shares of images classified wrong, float [N].
            start: An earlier fit, from whose variances the search for new ones begins.
        Raises:
            UserError: If there are fewer than two networks or an error is not within 0..1.
        """
        errors = np.asarray(errors, np.float64)
        if len(errors) < 2 or not ((errors >= 0) & (errors <= 1)).all():
            raise UserError(f"a predictor needs two errors within 0..1 or more, not {errors}")
        features = self.features_of(op_indices)
        values = np.log(np.maximum(errors, _LEAST_ERROR))
        centre = float(values.mean())
        groups = [features[:, self._groups == g] for g in range(self._groups.max() + 1)]
        products = np.stack([part @ part.T for part in groups])
        found = optimize.minimize(
            self._loss,
            self._usual if start is None else start.log_variances,
            args=(products, values - centre),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 40 if start is None else 10},
        )
        return FittedPredictor.of(self, features, values - centre, centre, found.x, self._groups)

    def _loss(
        self, log_variances: np.ndarray, products: np.ndarray, values: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Return the negative log of likelihood and prior, and its gradient."""
        variances = np.exp(log_variances)
        covariance = np.tensordot(variances[:-1], products, 1)
        covariance += (variances[-1] + 1e-9) * np.eye(len(values))
        factor = np.linalg.cholesky(covariance)
        inverse_factor = np.linalg.inv(factor)
        inverse = inverse_factor.T @ inverse_factor
        weighed = inverse @ values
        away = (log_variances - self._usual) / _PRIOR_STDDEV
        loss = 0.5 * values @ weighed + np.log(np.diag(factor)).sum() + 0.5 * away @ away
        inner = inverse - np.outer(weighed, weighed)
        gradient = 0.5 * variances * [*np.tensordot(products, inner, 2), np.trace(inner)]
        return float(loss), gradient + away / _PRIOR_STDDEV


@dataclasses.dataclass(frozen=True)
class FittedPredictor:
    """Posterior of an ErrorPredictor's coefficients.

    Attributes:
        model: The predictor that was fitted.
        centre: Mean of the log errors that it was fitted to.
        coefficients: Posterior mean, float64 [F].
        log_variances: Logarithms of the prior's variances of the groups, and of the noise's.
    """

    model: ErrorPredictor
    centre: float
    coefficients: np.ndarray
    log_variances: np.ndarray
    _features: np.ndarray  # of the data, [N, F]
    _values: np.ndarray  # [N], centred
    _prior: np.ndarray  # variances of the coefficients, [F]
    _gain: np.ndarray  # [F, N], from residuals to coefficients

    @classmethod
    def of(
        cls,
        model: ErrorPredictor,
        features: np.ndarray,
        values: np.ndarray,
        centre: float,
        log_variances: np.ndarray,
        groups: np.ndarray,
    ) -> FittedPredictor:
        """Return the posterior under given variances."""
        prior = np.exp(log_variances[:-1])[groups]
        scaled = features * prior
        covariance = scaled @ features.T
        covariance += (np.exp(log_variances[-1]) + 1e-9) * np.eye(len(values))
        gain = np.linalg.solve(covariance, scaled).T
        return cls(model, centre, gain @ values, log_variances, features, values, prior, gain)

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of log(error) over trainings of one network."""
        return float(np.exp(0.5 * self.log_variances[-1]))

    def log_errors(self, mixture_weights: Array) -> tf.Tensor:
        """Return the predicted log(error), float32 [B], of mixtures [B, D, O]; differentiable."""
        coefficients = tf.constant(self.coefficients[:, None], tf.float32)
        return tf.matmul(self.model.features(mixture_weights), coefficients)[:, 0] + self.centre

    def errors(self, op_indices: ArrayLike) -> np.ndarray:
        """Return the predicted errors, float64 [B], of networks int [B, D]."""
        return np.exp(self.model.features_of(op_indices) @ self.coefficients + self.centre)

    def draws(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Draw coefficients from the posterior, float64 [num, F]."""
        drawn = rng.normal(size=(num, len(self._prior))) * np.sqrt(self._prior)
        noise = rng.normal(size=(num, len(self._values))) * self.noise_stddev
        return drawn + (self._values - drawn @ self._features.T - noise) @ self._gain.T
