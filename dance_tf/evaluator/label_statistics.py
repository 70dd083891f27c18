"""Statistics of a set of labels, and a warning where there is little to learn from it.

A network that always gives the same answer is right wherever that is the only label, so
accuracy alone says nothing. The entropy of the labels, the number of accelerators that are
ever best, and the loss of one accelerator for all networks say how hard the question is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dance_tf.evaluator.dataset import OBJECTIVE_KINDS, CandidateTable
from dance_tf.files import Json
from dance_tf.hardware.accelerator import HEADS, accelerator_to_json
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import objective_values
from dance_tf.hardware.oracle import contender_rows
from dance_tf.structs import METRICS

__all__ = [
    "MAX_INFINITE_SHARE",
    "MAX_NETWORKS_COMPARED",
    "MIN_HEAD_ENTROPY_BITS",
    "MIN_ONE_FOR_ALL_LOSS",
    "describe_degeneracy",
    "entropy_bits",
    "kinds_of_objectives",
    "label_statistics",
]

#: Least entropy of a head's labels: below it, its most frequent value is right in about 99 of
#: 100 cases.
MIN_HEAD_ENTROPY_BITS = 0.1
#: Mean relative loss of one accelerator for all networks below which the choice hardly matters.
MIN_ONE_FOR_ALL_LOSS = 1e-3
#: Share of random (architecture, accelerator) pairs that may have no finite cost.
MAX_INFINITE_SHARE = 0.01
#: Networks of each kind of objective by which the one accelerator for all is chosen.
MAX_NETWORKS_COMPARED = 2048

_CHUNK = 512


def entropy_bits(labels: np.ndarray) -> float:
    """Return the entropy in bits of integer labels [N]; 0 for none."""
    shares = np.unique(labels, return_counts=True)[1] / max(len(labels), 1)
    return float(np.sum(shares * np.log2(1.0 / shares)))


def kinds_of_objectives(vectors: np.ndarray) -> np.ndarray:
    """Return the position in OBJECTIVE_KINDS of drawn objectives [N, 4], int [N].

    An objective of one metric alone is a single metric, whether product or linear; a product
    or a sum with equal weights counts as one of the random ones.
    """
    random = np.where(
        vectors[:, 0] > 0.5,
        OBJECTIVE_KINDS.index("random_linear"),
        OBJECTIVE_KINDS.index("random_products"),
    )
    is_single = np.count_nonzero(vectors[:, 1:], axis=1) == 1
    return np.where(is_single, OBJECTIVE_KINDS.index("single_metrics"), random)


def label_statistics(
    table: CostTable,
    mixture_weights: np.ndarray,
    objectives: np.ndarray,
    best_accelerators: np.ndarray,
    best_metrics: np.ndarray,
) -> dict[str, Json]:
    """Return the statistics of labelled architectures, over all and per kind of objective.

    Args:
        table: Table that the labels come from.
        mixture_weights: Architectures, float32 [N, D, O].
        objectives: Objectives of each architecture, float32 [N, J, 4]; the last is EDAP.
        best_accelerators: Exact best accelerators, int32 [N, J].
        best_metrics: Metrics on these, float32 [N, J, 3]; infinite where no accelerator
            runs the network.
    Returns:
        JSON data. `one_for_all` is the accelerator that loses least on average when it is
        used for every network, among MAX_NETWORKS_COMPARED networks spread over the set,
        and its loss against the optimum over all networks, as a fraction.
    """
    is_label = np.isfinite(best_metrics).all(axis=-1)
    kinds = np.stack([kinds_of_objectives(column) for column in objectives.swapaxes(0, 1)], 1)
    kinds[:, -1] = OBJECTIVE_KINDS.index("edap")
    contenders = contender_rows(table)
    candidates = CandidateTable(table, contenders)
    of_kind = {}
    for kind, name in enumerate(OBJECTIVE_KINDS):
        rows, column = np.nonzero((kinds == kind) & is_label)
        if len(rows):
            labels, metrics = best_accelerators[rows, column], best_metrics[rows, column]
            of_kind[name] = _of_labels(table, labels, metrics) | {
                "one_for_all": _one_for_all(
                    table, candidates, mixture_weights[rows], objectives[rows, column], metrics
                )
            }
    return {
        "num_labels": is_label.size,
        "num_labels_without_accelerator": int(np.sum(~is_label)),
        "num_accelerators": len(table.accelerators),
        "num_contenders": len(contenders),
        "num_ever_best": len(np.unique(best_accelerators[is_label])),
        "objectives": of_kind,
    }


def _of_labels(table: CostTable, labels: np.ndarray, metrics: np.ndarray) -> dict[str, Json]:
    heads = table.accelerators.head_indices(labels)
    counts = np.unique(labels, return_counts=True)[1]
    return {
        "num_labels": len(labels),
        "num_ever_best": len(counts),
        "most_frequent_share": float(counts.max() / len(labels)),
        "entropy_bits": entropy_bits(labels),
        "head_entropy_bits": {
            head: entropy_bits(heads[:, position]) for position, head in enumerate(HEADS)
        },
        "best_metrics": {
            metric: {
                "min": float(metrics[:, i].min()),
                "median": float(np.median(metrics[:, i])),
                "max": float(metrics[:, i].max()),
            }
            for i, metric in enumerate(METRICS)
        },
    }


def _one_for_all(
    table: CostTable,
    candidates: CandidateTable,
    weights: np.ndarray,
    vectors: np.ndarray,
    best_metrics: np.ndarray,
) -> dict[str, Json]:
    optima = objective_values(vectors, best_metrics, table.reference).numpy()
    compared = np.arange(0, len(weights), -(-len(weights) // MAX_NETWORKS_COMPARED))
    total = np.zeros(len(candidates.rows))
    for start in range(0, len(compared), _CHUNK):
        some = compared[start : start + _CHUNK]
        metrics = candidates.expected_metrics(weights[some]).numpy()
        # 0 x infinite is not a number; an accelerator that cannot run is infinitely bad.
        metrics = np.where(np.isfinite(metrics), metrics, np.inf)
        values = objective_values(vectors[some, None], metrics, table.reference).numpy()
        total += np.sum(values / optima[some, None] - 1.0, axis=0, dtype=np.float64)
    row = int(candidates.rows[np.argmin(total)])
    metrics = table.metrics_at(weights, np.full(len(weights), row, np.int32))
    values = objective_values(vectors, metrics, table.reference).numpy()
    # A tie may have gone to one that is a little above the least: no negative loss.
    losses = np.maximum(values.astype(np.float64) / optima - 1.0, 0.0)
    return {
        "accelerator_index": row,
        "accelerator": accelerator_to_json(table.accelerators.decode(row)),
        "mean_loss": float(losses.mean()),
        "max_loss": float(losses.max()),
    }


def describe_degeneracy(
    summary: Mapping[str, Json], head_sizes: Mapping[str, int] | None = None
) -> list[str]:
    """Return a line for each way in which labels teach little; none for good ones.

    Args:
        summary: Statistics from `label_statistics`, with `num_pairs` and
            `num_infinite_pairs`.
        head_sizes: Number of values that the accelerator space gives each head; a head with
            a single value is passed over.
    """
    warnings = []
    num = summary["num_labels_without_accelerator"]
    if num:
        warnings.append(f"{num} of {summary['num_labels']} labels: no accelerator runs the network")
    share = summary["num_infinite_pairs"] / max(summary["num_pairs"], 1)
    if share > MAX_INFINITE_SHARE:
        warnings.append(
            f"{share:.1%} of the random pairs cannot run and have infinite metrics"
            f" (more than {MAX_INFINITE_SHARE:.0%})"
        )
    for kind, found in summary["objectives"].items():
        if found["num_ever_best"] == 1:
            warnings.append(f"{kind}: one accelerator is the best for every network")
        constant = [
            f"{head} ({bits:.2f} bits)"
            for head, bits in found["head_entropy_bits"].items()
            if bits < MIN_HEAD_ENTROPY_BITS and (head_sizes is None or head_sizes[head] > 1)
        ]
        if constant:
            warnings.append(
                f"{kind}: nearly always the same answer, below {MIN_HEAD_ENTROPY_BITS} bits,"
                f" of {', '.join(constant)}"
            )
        loss = found["one_for_all"]["mean_loss"]
        if loss < MIN_ONE_FOR_ALL_LOSS:
            warnings.append(
                f"{kind}: one accelerator for all networks loses {loss:.3%} on average,"
                f" less than {MIN_ONE_FOR_ALL_LOSS:.1%}"
            )
    return warnings
