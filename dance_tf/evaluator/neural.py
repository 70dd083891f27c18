"""The neural evaluator: both networks, frozen, with what they were trained for."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from dance_tf.config import AcceleratorSpaceConfig, MachineConfig
from dance_tf.errors import UserError
from dance_tf.evaluator.networks import (
    CostEstimationNetwork,
    HardwareGenerationNetwork,
    head_one_hot,
    split_heads,
)
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.strict_json import read_json, write_json
from dance_tf.structs import Evaluation
from dance_tf.supernet.search_space import Block, NetworkSpace

__all__ = ["FORWARDINGS", "MANIFEST", "MEND", "EvaluatorDomain", "NeuralEvaluator", "make_networks"]

#: How the generated accelerator enters the cost estimation network.
FORWARDINGS = ("hard", "soft", "gumbel")

#: File of a saved evaluator that describes the others.
MANIFEST = "manifest.json"

#: How a user mends an evaluator that does not load or does not fit.
MEND = "train one with `python -m tools.train_evaluator`, or use --evaluator=exact"

_SCHEMA_VERSION = 1
_WEIGHTS = {"generator": "generator.weights.h5", "estimator": "estimator.weights.h5"}


@dataclasses.dataclass(frozen=True)
class EvaluatorDomain:
    """What an evaluator speaks about; equal to the table's it was trained on."""

    space: NetworkSpace
    accelerators: AcceleratorSpace
    machine: MachineConfig
    content_hash: str  # of the table
    reference: tuple[float, float, float]  # metrics that normalise objectives

    @classmethod
    def of_table(cls, table: Any) -> EvaluatorDomain:
        """Return the domain of a hardware.cost_table.CostTable."""
        latency, energy, area = (float(value) for value in table.reference)
        return cls(
            table.space,
            table.accelerators,
            table.machine,
            table.content_hash,
            (latency, energy, area),
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EvaluatorDomain:
        """Build from what `dataclasses.asdict` gave, by way of JSON."""
        space = dict(data["space"])
        space["blocks"] = tuple(Block(**block) for block in space["blocks"])
        space["op_names"] = tuple(space["op_names"])
        accelerators = {k: tuple(v) for k, v in data["accelerators"]["config"].items()}
        return cls(
            NetworkSpace(**space),
            AcceleratorSpace(AcceleratorSpaceConfig(**accelerators)),
            MachineConfig(**data["machine"]),
            data["content_hash"],
            tuple(data["reference"]),
        )


class NeuralEvaluator:
    """Hardware generation network followed by cost estimation network."""

    kind = "neural"

    def __init__(
        self,
        generator: HardwareGenerationNetwork,
        estimator: CostEstimationNetwork,
        *,
        domain: EvaluatorDomain,
        candidates: np.ndarray,
    ) -> None:
        """Hold trained networks and freeze them.

        Args:
            generator: Hardware generation network.
            estimator: Cost estimation network.
            domain: What they were trained on.
            candidates: Rows of the accelerator space that were the best for some training
                example, int32 [C]; the choice is made among these.
        """
        generator.trainable = False
        estimator.trainable = False
        self.generator, self.estimator, self.domain = generator, estimator, domain
        self.candidates = np.asarray(candidates, np.int32)
        self.head_sizes = domain.accelerators.head_sizes
        self._head_indices = domain.accelerators.head_indices()
        self._candidate_heads = head_one_hot(self._head_indices[self.candidates], self.head_sizes)

    def evaluate(
        self,
        mixture_weights: Any,
        objective_vectors: Any,
        *,
        forwarding: str = "hard",
        temperature: float = 1.0,
        seed: Any = None,
    ) -> Evaluation:
        """Evaluate architectures under objectives.

        The accelerator is the candidate of highest joint probability over the four heads.
        By default it is forwarded without gradient: the exact gradient of a minimum has no
        term through the argmin.
        Differs from the paper: Gumbel softmax is an option, not the default.

        Args:
            mixture_weights: float32 [B, D, O].
            objective_vectors: float32 [B, 4]; see hardware.objective.
            forwarding: "hard"; "soft", the heads' probabilities; or "gumbel", one-hot
                samples of the heads with the gradient of their Gumbel softmax.
            temperature: Of the softmax in "soft" and "gumbel".
            seed: Pair of integers, for "gumbel".
        Returns:
            Metrics float32 [B, 3], differentiable in the mixture weights, and the index
            of the generated accelerator, int32 [B].
        """
        weights = tf.convert_to_tensor(mixture_weights, tf.float32)
        vectors = tf.convert_to_tensor(objective_vectors, tf.float32)
        if forwarding == "hard":
            index, heads = self._choose(self.generator((tf.stop_gradient(weights), vectors)))
        elif forwarding == "soft":
            logits = self.generator((weights, vectors))
            index, _ = self._choose(logits)
            split = split_heads(logits / temperature, self.head_sizes)
            heads = tf.concat([tf.nn.softmax(head) for head in split], axis=-1)
        elif forwarding == "gumbel":
            if seed is None:
                raise ValueError("forwarding='gumbel' needs a seed, a pair of integers")
            logits = self.generator((weights, vectors))
            index, heads = self._sample(logits, temperature, seed)
        else:
            raise UserError(f"forwarding is {forwarding!r}, not one of {', '.join(FORWARDINGS)}")
        return Evaluation(self.estimator((weights, heads)), index)

    def estimate(self, mixture_weights: Any, accelerator_index: Any) -> tf.Tensor:
        """Return the predicted metrics, float32 [B, 3], at one accelerator per row [B]."""
        heads = head_one_hot(tf.gather(self._head_indices, accelerator_index), self.head_sizes)
        return self.estimator((tf.convert_to_tensor(mixture_weights, tf.float32), heads))

    def _choose(self, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return rows [B] and one-hot heads [B, H] of the most probable candidates."""
        scores = tf.matmul(logits, self._candidate_heads, transpose_b=True)
        choice = tf.argmax(scores, axis=-1, output_type=tf.int32)
        return tf.gather(self.candidates, choice), tf.gather(self._candidate_heads, choice)

    def _sample(
        self, logits: tf.Tensor, temperature: float, seed: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return rows [B] and straight-through one-hot heads [B, H] of Gumbel samples."""
        uniform = tf.random.stateless_uniform(
            tf.shape(logits), seed, minval=np.finfo(np.float32).tiny
        )
        noisy = (logits - tf.math.log(-tf.math.log(uniform))) / temperature
        heads, index = [], 0
        for head in split_heads(noisy, self.head_sizes):
            soft = tf.nn.softmax(head)
            position = tf.argmax(head, axis=-1, output_type=tf.int32)
            hard = tf.one_hot(position, head.shape[-1])
            heads.append(soft + tf.stop_gradient(hard - soft))
            index = index * head.shape[-1] + position
        return index, tf.concat(heads, axis=-1)

    def save(self, path: str, **record: Any) -> None:
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
                getattr(self, name).save_weights(os.path.join(aside, file))
            manifest = {
                "schema_version": _SCHEMA_VERSION,
                "domain": dataclasses.asdict(self.domain),
                "networks": {
                    "num_blocks": self.generator.trunk.num_blocks,
                    "generator_units": self.generator.trunk.inlet.units,
                    "estimator_units": self.estimator.trunk.inlet.units,
                    "cell_mask": self.estimator.cell_mask.astype(int).tolist(),
                    "candidates": self.candidates.tolist(),
                },
                "files": {file: _sha256(os.path.join(aside, file)) for file in _WEIGHTS.values()},
                **record,
            }
            write_json(os.path.join(aside, MANIFEST), manifest)
            for file in (*_WEIGHTS.values(), MANIFEST):
                os.replace(os.path.join(aside, file), os.path.join(path, file))
        finally:
            shutil.rmtree(aside, ignore_errors=True)

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
            shapes = manifest["networks"]
            generator, estimator = make_networks(
                domain,
                cell_mask=np.asarray(shapes["cell_mask"], bool),
                num_blocks=shapes["num_blocks"],
                generator_units=shapes["generator_units"],
                estimator_units=shapes["estimator_units"],
            )
            generator.load_weights(os.path.join(path, _WEIGHTS["generator"]))
            estimator.load_weights(os.path.join(path, _WEIGHTS["estimator"]))
            return cls(generator, estimator, domain=domain, candidates=shapes["candidates"])
        except (KeyError, TypeError, ValueError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"evaluator {path}: {MANIFEST} does not fit ({reason}): {MEND}"
            ) from None


def make_networks(
    domain: EvaluatorDomain,
    *,
    cell_mask: np.ndarray,
    num_blocks: int,
    generator_units: int,
    estimator_units: int,
    seed: int = 0,
) -> tuple[HardwareGenerationNetwork, CostEstimationNetwork]:
    """Return untrained networks of the right shapes."""
    head_sizes = domain.accelerators.head_sizes
    generator = HardwareGenerationNetwork(
        num_cells=domain.space.num_blocks * domain.space.num_ops,
        head_sizes=head_sizes,
        num_blocks=num_blocks,
        units=generator_units,
        seed=2 * seed,
    )
    estimator = CostEstimationNetwork(
        cell_mask=cell_mask,
        head_sizes=head_sizes,
        num_blocks=num_blocks,
        units=estimator_units,
        seed=2 * seed + 1,
    )
    return generator, estimator


def _sha256(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def _read_manifest(path: str) -> dict[str, Any]:
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
