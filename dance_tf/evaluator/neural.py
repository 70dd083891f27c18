"""The neural evaluator: both networks, frozen, with the domain that they were trained on."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from dance_tf.errors import UserError
from dance_tf.evaluator.domain import EvaluatorDomain, NetworkShapes, make_networks
from dance_tf.evaluator.exact import mixture_softness, soft_minimum
from dance_tf.evaluator.networks import (
    CostEstimationNetwork,
    HardwareGenerationNetwork,
    PlainCostEstimationNetwork,
    Scopes,
    constant_weights,
    head_one_hot,
    objective_gaps,
    split_heads,
)
from dance_tf.files import Json, naming_path, read_json, write_json
from dance_tf.hardware.objective import objective_values
from dance_tf.run.installation import tool_command
from dance_tf.structs import Evaluation, Trust

__all__ = [
    "FORWARDINGS",
    "MANIFEST",
    "MEND",
    "NeuralEvaluator",
    "TrustThresholds",
]

#: Forms in which the generated accelerator enters the cost estimation network.
FORWARDINGS = ("hard", "soft_minimum", "soft", "gumbel")

#: File of a saved evaluator that describes its weights.
MANIFEST = "manifest.json"

#: Advice for the user of an evaluator that does not load or does not fit.
MEND = f"train one with `{tool_command('train_evaluator')}`, or use --evaluator=exact"

_SCHEMA_VERSION = 2
_WEIGHTS = {"generator": "generator.weights.h5", "estimator": "estimator.weights.h5"}


@dataclasses.dataclass(frozen=True)
class TrustThresholds:
    """Largest values with which an answer is trusted; see structs.Trust."""

    max_predicted_regret: float = 1e-3
    max_error_bound: float = 1e-2


class NeuralEvaluator:
    """Hardware generation network followed by cost estimation network.

    >>> import numpy as np
    >>> import dance_tf
    >>> from dance_tf.evaluator.loading import shipped_path
    >>> evaluator = dance_tf.NeuralEvaluator.load(shipped_path("cifar_mbconv_small"))
    >>> one_hot = np.eye(7, dtype=np.float32)[None, [0] * 9]  # mbconv3_e3 in all nine blocks
    >>> evaluation = evaluator.evaluate(one_hot, dance_tf.EDAP.vector[None])
    >>> evaluation.metrics.shape  # latency_ms, energy_mj, area_mm2
    TensorShape([1, 3])
    >>> evaluator.domain.accelerators.decode(int(evaluation.accelerator_index[0]))
    Accelerator(...)
    """

    kind = "neural"
    reason: str | None = None  # it never stands in for another

    def __init__(
        self,
        generator: HardwareGenerationNetwork,
        estimator: CostEstimationNetwork | PlainCostEstimationNetwork,
        *,
        domain: EvaluatorDomain,
        shapes: NetworkShapes,
        candidates: Sequence[int] | np.ndarray,
        thresholds: TrustThresholds = TrustThresholds(),
    ) -> None:
        """Make an evaluator of trained networks, which are frozen.

        Args:
            generator: Hardware generation network.
            estimator: Cost estimation network.
            domain: Spaces, machine and cost table that the networks were trained on.
            shapes: Forms and sizes of the networks.
            candidates: Rows of the accelerator space that were the best for some training
                example, int32 [C].
            thresholds: Thresholds of `trust`.
        """
        generator.trainable = False
        estimator.trainable = False
        self.generator, self.estimator, self.domain = generator, estimator, domain
        self.candidates = np.asarray(candidates, np.int32)
        self.shapes, self.thresholds = shapes, thresholds
        self._is_by_head = shapes.generator_form == "heads"
        self.head_sizes = domain.accelerators.head_sizes
        self._head_indices = domain.accelerators.head_indices()
        heads = head_one_hot(self._head_indices[self.candidates], self.head_sizes)
        self._candidate_heads = heads
        # The networks are frozen, so the costs of the candidates are computed once.
        is_linear = isinstance(estimator, CostEstimationNetwork)
        self._candidate_costs = estimator.costs(heads) if is_linear else None

    def evaluate(
        self,
        mixture_weights: ArrayLike,
        objective_vectors: ArrayLike,
        *,
        forwarding: str = "hard",
        temperature: float | None = None,
        seed: ArrayLike | None = None,
    ) -> Evaluation:
        """Evaluate architectures under objectives.

        By default the generated accelerator is forwarded without gradient: the exact
        gradient of a minimum has no term through the argmin.
        Differs from the paper: Gumbel softmax is an option, not the default.

        Args:
            mixture_weights: Architectures, float32 [B, D, O].
            objective_vectors: Objectives, float32 [B, 4]; see hardware.objective.
            forwarding: "hard"; "soft", the heads' probabilities; "gumbel", one-hot samples
                with the gradient of their Gumbel softmax; or "soft_minimum", the average
                over the candidates that are nearly the best, as in ExactEvaluator.
            temperature: Temperature of the softmax in "soft" and "gumbel", by default 1, or
                of the soft minimum at a uniform mixture, by default 0.01.
            seed: Pair of integers, for "gumbel".
        Returns:
            Metrics float32 [B, 3], differentiable in the mixture weights, and the index
            of the generated accelerator, int32 [B].
        """
        if forwarding not in FORWARDINGS:
            raise UserError(f"forwarding is {forwarding!r}, not one of {', '.join(FORWARDINGS)}")
        if forwarding == "gumbel" and seed is None:
            raise ValueError("forwarding='gumbel' needs a seed, a pair of integers")
        weights = tf.convert_to_tensor(mixture_weights, tf.float32)
        vectors = tf.convert_to_tensor(objective_vectors, tf.float32)
        has_gradient = forwarding in ("soft", "gumbel")  # the choice itself
        seen = weights if has_gradient else tf.stop_gradient(weights)
        logits = self.logits(seen, vectors)
        if forwarding == "gumbel":
            uniform = tf.random.stateless_uniform(
                tf.shape(logits), seed, minval=np.finfo(np.float32).tiny
            )
            logits -= tf.math.log(-tf.math.log(uniform))
        if forwarding == "soft_minimum":
            return self._soft_minimum(weights, vectors, logits, temperature or 0.01)
        if forwarding == "hard" and self._candidate_costs is not None and not self._is_by_head:
            # The costs of the candidates are known: the estimation network's trunk rests.
            choice = tf.argmax(logits, axis=-1, output_type=tf.int32)
            costs = (tf.gather(part, choice) for part in self._candidate_costs)
            metrics = self.estimator.combine(weights, *costs)
            return Evaluation(metrics, tf.gather(self.candidates, choice))
        parts = self._softmaxes(logits)
        hard = [tf.one_hot(tf.argmax(part, axis=-1), part.shape[-1]) for part in parts]
        hard_heads = self._as_heads(hard)
        if forwarding == "hard":
            heads = hard_heads
        else:
            heads = self._as_heads([tf.nn.softmax(part / (temperature or 1.0)) for part in parts])
            if forwarding == "gumbel":
                heads += tf.stop_gradient(hard_heads - heads)
        return Evaluation(self.estimator((weights, heads)), self._index(hard_heads))

    def _soft_minimum(
        self, weights: tf.Tensor, vectors: tf.Tensor, logits: tf.Tensor, temperature: float
    ) -> Evaluation:
        if self._is_by_head:
            raise UserError("forwarding 'soft_minimum' needs a choice among candidates, not heads")
        best = tf.argmax(logits, axis=-1, output_type=tf.int32)
        softness = mixture_softness(weights, self.domain.space.op_mask)
        metrics = soft_minimum(
            self._candidate_metrics(weights),
            vectors,
            self.domain.reference,
            best,
            temperature * softness,
        )
        return Evaluation(metrics, tf.gather(self.candidates, best))

    def estimate(self, mixture_weights: ArrayLike, accelerator_index: ArrayLike) -> tf.Tensor:
        """Return the predicted metrics, float32 [B, 3], at one accelerator per row [B]."""
        heads = head_one_hot(tf.gather(self._head_indices, accelerator_index), self.head_sizes)
        return self.estimator((tf.convert_to_tensor(mixture_weights, tf.float32), heads))

    def trust(
        self, mixture_weights: ArrayLike, objective_vectors: ArrayLike, evaluation: Evaluation
    ) -> Trust:
        """Return the trust in the answer of `evaluate` to each row.

        Args:
            mixture_weights: Architectures, float32 [B, D, O].
            objective_vectors: Objectives, float32 [B, 4].
            evaluation: Answer of `evaluate` to these, forwarded hard.
        """
        weights = tf.convert_to_tensor(mixture_weights, tf.float32)
        vectors = tf.convert_to_tensor(objective_vectors, tf.float32)
        chosen = self._log_objective(vectors, evaluation.metrics)
        candidates = self._log_objective(vectors[:, None, :], self._candidate_metrics(weights))
        least = tf.reduce_min(candidates, axis=-1)
        regret = tf.math.expm1(tf.maximum(chosen - least, 0.0))
        if self._candidate_costs is None:
            bound = tf.fill(tf.shape(regret), np.float32(np.inf))
        else:
            all_bounds = tf.reshape(self.estimator.error_bound, [-1])
            bound = tf.gather(all_bounds, evaluation.accelerator_index)
        is_trusted = (regret <= self.thresholds.max_predicted_regret) & (
            bound <= self.thresholds.max_error_bound
        )
        return Trust(regret, bound, is_trusted)

    def constant_weights(self) -> Scopes:
        """Return a maker of scopes in which a graph takes the weights as constants."""
        return constant_weights(self.generator, self.estimator)

    def logits(self, weights: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
        """Return the logits of the generation network, float32 [B, C] or [B, H]."""
        if self.shapes.generator_form != "ranked":
            return self.generator((weights, vectors))
        gaps = objective_gaps(
            vectors[:, None, :], self._candidate_metrics(weights), self.domain.reference
        )
        return self.generator((weights, vectors, gaps))

    def _candidate_metrics(self, weights: tf.Tensor) -> tf.Tensor:
        """Return the predicted metrics of the candidates, float32 [B, C, 3]."""
        if self._candidate_costs is not None:
            return self.estimator.pairwise_metrics(weights, *self._candidate_costs)
        num, rows = len(self.candidates), tf.shape(weights)[0]
        pairs = tf.repeat(weights, num, axis=0), tf.tile(self._candidate_heads, [rows, 1])
        return tf.reshape(self.estimator(pairs), [rows, num, 3])

    def _log_objective(self, vectors: tf.Tensor, metrics: tf.Tensor) -> tf.Tensor:
        return tf.math.log(objective_values(vectors, metrics, self.domain.reference))

    def _softmaxes(self, logits: tf.Tensor) -> list[tf.Tensor]:
        """Return the logits of each softmax: one over the candidates, or one per head."""
        if self._is_by_head:
            return split_heads(logits, self.head_sizes)
        return [logits]

    def _as_heads(self, probabilities: list[tf.Tensor]) -> tf.Tensor:
        """Return the probabilities of the softmaxes as heads side by side, [B, H]."""
        if self._is_by_head:
            return tf.concat(probabilities, axis=-1)
        return tf.matmul(probabilities[0], self._candidate_heads)

    def _index(self, heads: tf.Tensor) -> tf.Tensor:
        """Return the rows of the accelerator space, int32 [B], of one-hot heads."""
        index = tf.zeros(tf.shape(heads)[:1], tf.int32)
        for head in split_heads(heads, self.head_sizes):
            index = index * head.shape[-1] + tf.argmax(head, axis=-1, output_type=tf.int32)
        return index

    def save(self, path: str, **record: Json) -> None:
        """Save into a folder: weights, and a manifest with the SHA-256 of each.

        Files are written aside and renamed, the manifest last: a folder whose writing was
        cut short does not load.

        Args:
            path: Folder; made if missing.
            **record: JSON data to keep in the manifest, such as metrics.
        """
        os.makedirs(path, exist_ok=True)
        aside = tempfile.mkdtemp(prefix=".saving-", dir=path)
        try:
            for name, file in _WEIGHTS.items():
                network = getattr(self, name)
                _require_room(aside, sum(weight.numpy().nbytes for weight in network.weights))
                network.save_weights(os.path.join(aside, file))
            manifest = {
                "schema_version": _SCHEMA_VERSION,
                "domain": self.domain.to_json(),
                "networks": dataclasses.asdict(self.shapes),
                "candidates": self.candidates.tolist(),
                "trust_thresholds": dataclasses.asdict(self.thresholds),
                "files": {file: _sha256(os.path.join(aside, file)) for file in _WEIGHTS.values()},
                **record,
            }
            write_json(os.path.join(aside, MANIFEST), manifest)
            for file in (*_WEIGHTS.values(), MANIFEST):
                os.replace(os.path.join(aside, file), os.path.join(path, file))
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    @staticmethod
    def read_domain(path: str) -> EvaluatorDomain:
        """Return the domain of the evaluator in a folder, without loading its networks.

        Raises:
            UserError: If its manifest is missing or damaged.
        """
        manifest = _read_manifest(path)
        try:
            return EvaluatorDomain.from_json(manifest["domain"])
        except (KeyError, TypeError, ValueError) as error:
            raise _unfit(path, error) from None

    @classmethod
    def load(cls, path: str) -> NeuralEvaluator:
        """Load from a folder.

        Raises:
            UserError: If files are missing, damaged or do not belong together.
        """
        manifest = _read_manifest(path)
        for file, expected in manifest["files"].items():
            full = os.path.join(path, file)
            if not os.path.isfile(full):
                raise UserError(f"evaluator {path}: {file} is missing: {MEND}")
            if _sha256(full) != expected:
                raise UserError(f"evaluator {path}: {file} is not what was saved: {MEND}")
        try:
            domain = EvaluatorDomain.from_json(manifest["domain"])
            shapes = NetworkShapes(**manifest["networks"])
            generator, estimator = make_networks(domain, shapes)
            generator.load_weights(os.path.join(path, _WEIGHTS["generator"]))
            estimator.load_weights(os.path.join(path, _WEIGHTS["estimator"]))
            return cls(
                generator,
                estimator,
                domain=domain,
                shapes=shapes,
                candidates=manifest["candidates"],
                thresholds=TrustThresholds(**manifest["trust_thresholds"]),
            )
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise _unfit(path, error) from None


def _unfit(path: str, error: Exception) -> UserError:
    reason = str(error).partition("\n")[0]
    return UserError(f"evaluator {path}: {MANIFEST} does not fit ({reason}): {MEND}")


def _require_room(folder: str, num_bytes: int) -> None:
    """Raise the OSError of a full disk, after which HDF5 would crash the process."""
    path = os.path.join(folder, "room")
    with naming_path(folder), open(path, "wb") as file:
        file.write(bytes(2 * num_bytes + 2**20))  # HDF5 adds headers of its own.
        file.flush()
        os.fsync(file.fileno())
    os.remove(path)


def _sha256(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def _read_manifest(path: str) -> dict[str, Json]:
    try:
        manifest = read_json(os.path.join(path, MANIFEST))
    except UserError as error:
        raise UserError(f"evaluator {error}: {MEND}") from None
    if not isinstance(manifest, dict) or manifest.get("schema_version") != _SCHEMA_VERSION:
        raise UserError(
            f"evaluator {path}: {MANIFEST} is not of schema version {_SCHEMA_VERSION}: {MEND}"
        )
    if set(manifest.get("files", ())) != set(_WEIGHTS.values()):
        raise UserError(f"evaluator {path}: {MANIFEST} does not list its files: {MEND}")
    return manifest
