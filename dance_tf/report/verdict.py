"""Verdict on a run in words: what was found, how good it is, whether to trust it, what next.

A sentence is left out where the run's files and the table do not have its numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dance_tf.report.exact import ExactParts
from dance_tf.report.run_folder import Run
from dance_tf.report.sections import mixture_weights
from dance_tf.report.texts import accelerator_name, enumeration, is_number, number
from dance_tf.run.installation import tool_command
from dance_tf.search.retrain import PHASE as RETRAIN
from dance_tf.structs import METRICS

__all__ = ["Advice", "Verdict", "verdict"]

# A block is decided where its op has this share of the mixture.
_DECIDED = 0.5

# Share of the search at its end in which a settled network and its cost stay as they are.
_LAST = 0.2

# Relative difference of costs that is one of rounding alone.
_SAME = 1e-4


@dataclasses.dataclass(frozen=True)
class Advice:
    """Something to try next.

    Attributes:
        reason: Numbers that speak for it, and the thing to do.
        setting: Flag to add to the command; "" where it is none.
    """

    reason: str
    setting: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """First sentences of a report.

    Attributes:
        found: Accuracy and costs.
        standing: Network and accelerator, and the distance of their cost from others.
        settled: Sentence on whether the search has come to an end.
        advice: Things to try next, the most pressing first; at least one.
    """

    found: str
    standing: tuple[str, ...]
    settled: str
    advice: tuple[Advice, ...]


def verdict(run: Run, exact: ExactParts | None, baseline: Run | None) -> Verdict:
    """Return the verdict on a run.

    Args:
        run: Run to judge.
        exact: Exact costs of its network; None if there are none.
        baseline: Run that it is held against; None: the largest network of the space.
    """
    # Costs of another day do not compare with those of the run.
    rivals = exact if exact is not None and exact.is_of_the_run else None
    end = _End.of(run)
    return Verdict(
        found=_found(run),
        standing=tuple(_standing(run, rivals, baseline)),
        settled=end.sentence,
        advice=tuple(_advice(run, rivals, end)) or (_NOTHING_STANDS_OUT,),
    )


_NOTHING_STANDS_OUT = Advice(
    "Nothing in these numbers asks for a change. One search gives one compromise:"
    f" a sweep over lambda_2 with `{tool_command('pareto')}` shows what accuracy costs."
)


def _found(run: Run) -> str:
    cost, accuracy = run.costs["exact_cost"], run.result.get("accuracy")
    right = "Accuracy not known, as the network has not been retrained"
    if accuracy:
        right = (
            f"{100 * accuracy['value']:.2f} % of {number(accuracy['num_images'])}"
            f" {accuracy['split']} images right"
        )
    return (
        f"{right}; {number(cost['latency_ms'])} ms and {number(cost['energy_mj'])} mJ for an"
        f" image, {number(cost['area_mm2'])} mm² of accelerator."
    )


def _standing(run: Run, rivals: ExactParts | None, baseline: Run | None) -> list[str]:
    """Return how the objective compares with the best accelerator, the cheapest and a baseline."""
    name = run.result["objective"]["name"]
    name = name if name.isupper() else f"objective ({name})"
    return [
        _network(run),
        _accelerator(run, rivals, name),
        *_against_networks(run, rivals, baseline, name),
    ]


def _num_skipped(run: Run) -> int:
    """Return how many skippable blocks the network leaves out."""
    ops = run.space.to_indices(run.architecture)
    return int(run.space.skip_mask[range(len(ops)), ops].sum())


def _network(run: Run) -> str:
    ops = run.architecture.ops
    num_zero = _num_skipped(run)
    macs = number(sum(layer.macs for layer in run.space.layers(run.architecture)))
    of_zero = f", {num_zero} of them Zero" if num_zero else ""
    return f"The network has {macs} MACs and {len(ops)} searched blocks{of_zero}."


def _accelerator(run: Run, rivals: ExactParts | None, name: str) -> str:
    own, best = run.costs["exact_cost"]["objective"], run.costs.get("exact_best_cost")
    text = f"The accelerator has {accelerator_name(run.result['accelerator'])}"
    if best is not None and best["objective"]:
        times = own / best["objective"]
        if times > 1 + _SAME:
            limits = "" if run.limits is None else ", whatever the limits"
            text += f": {_times(times)} the {name} of the exact best for this network{limits}"
        else:
            many = "all" if rivals is None else f"{rivals.num_accelerators:,}"
            text += f", the exact best of {many} for this network"
    chosen = run.costs.get("evaluator_accelerator_exact_cost")
    if chosen is not None and own:
        extra = chosen["objective"] / own
        if run.result.get("evaluator_accelerator") == run.result["accelerator"]:
            text += "; the evaluator chose the same"
        elif abs(extra - 1) > _SAME:
            text += f"; the evaluator's choice has {_times(extra)} its {name}"
        else:
            text += "; the evaluator's choice is as good"
    return f"{text}."


def _against_networks(
    run: Run, rivals: ExactParts | None, baseline: Run | None, name: str
) -> list[str]:
    own, others = run.costs["exact_cost"]["objective"], []
    if rivals is not None and rivals.cheapest is not None and rivals.cheapest.objective:
        others.append(
            f"{_times(own / rivals.cheapest.objective)} that of the cheapest network of the space"
        )
    largest = None if rivals is None else rivals.largest
    of_baseline = 0.0 if largest is None else largest.objective
    title = "the baseline, the largest network on its best accelerator"
    if baseline is not None:
        # By this run's objective; the baseline may have had another.
        cost = [baseline.costs["exact_cost"][metric] for metric in METRICS]
        of_baseline = float(run.objective(cost, run.reference))
        title = f"the baseline {baseline.name}"
    if of_baseline:
        others.append(f"{_times(own / of_baseline)} that of {title}")
    if not others:
        return []
    return [f"Its {name} is {' and '.join(others)}.{_accuracies(run, baseline)}"]


def _accuracies(run: Run, baseline: Run | None) -> str:
    accuracy = run.result.get("accuracy")
    other = None if baseline is None else baseline.result.get("accuracy")
    if not accuracy or not other:
        return ""
    points = 100 * (accuracy["value"] - other["value"])
    return (
        f" It is {abs(points):.2f} points {'more' if points >= 0 else 'less'} accurate than that."
    )


# The end of the search


@dataclasses.dataclass(frozen=True)
class _End:
    """State of a search at its end.

    Attributes:
        undecided: Blocks whose op has less than half of the mixture.
        least: Least share of the mixture that a block's op has; None if not known.
        entropy: Mean entropy of the blocks' mixtures, as a share of the most there can be;
            None if not known.
        moved: Largest objective of the network ahead over the least, less 1, in the last
            fifth of the search; None without a history.
    """

    undecided: tuple[int, ...] = ()
    least: float | None = None
    entropy: float | None = None
    moved: float | None = None

    @classmethod
    def of(cls, run: Run) -> _End:
        weights, moved = mixture_weights(run), _moved(run)
        if weights is None:
            return cls(moved=moved)
        chosen = weights[np.arange(len(weights)), run.space.to_indices(run.architecture)]
        is_op = np.isfinite(weights)
        logs = np.log(np.where(is_op & (weights > 0), weights, 1.0))
        entropy = -np.nansum(np.where(is_op, weights, 0.0) * logs, axis=1)
        most = np.log(is_op.sum(axis=1))
        return cls(
            undecided=tuple(np.flatnonzero(chosen < _DECIDED).tolist()),
            least=float(chosen.min()),
            entropy=float(entropy.sum() / most.sum()) if most.sum() else 0.0,
            moved=moved,
        )

    @property
    def sentence(self) -> str:
        if self.least is None and self.moved is None:
            return "Whether the search settled cannot be said: the run has no record of it."
        parts = []
        if self.least is not None:
            share = f"the op taken has {_percent(self.least)} of the mixture or more"
            if self.undecided:
                share = (
                    f"the op taken has less than half of the mixture in {_blocks(self.undecided)}"
                )
            parts.append(
                f"{share}, and the entropy of the mixture is {_percent(self.entropy or 0.0)} of the"
                " most there can be"
            )
        if self.moved is not None:
            parts.append(
                f"the network's cost moved by {_percent(self.moved)} in the last fifth"
                if self.moved > _SAME
                else "the network's cost did not move in the last fifth"
            )
        is_open = bool(self.undecided) or bool(self.moved and self.moved > 0.01)
        return f"The search has {'not ' if is_open else ''}settled: {'; '.join(parts)}."


def _moved(run: Run) -> float | None:
    records = [r for r in run.history if r.get("phase") == "search" and is_number(r.get("step"))]
    costs = [(r["step"], [r.get(f"exact_{metric}") for metric in METRICS]) for r in records]
    costs = [(step, cost) for step, cost in costs if all(map(is_number, cost))]
    if len(costs) < 2:
        return None
    first, last = costs[0][0], costs[-1][0]
    values = [
        float(run.objective(cost, run.reference))
        for step, cost in costs
        if step >= last - _LAST * (last - first)
    ]
    return max(values) / min(values) - 1 if min(values) > 0 else None


# Advice


def _advice(run: Run, rivals: ExactParts | None, end: _End) -> list[Advice]:
    return [
        *_about_accuracy(run),
        *_about_cost(run, rivals),
        *_about_limits(run),
        *_about_the_end(end),
        *_about_the_evaluator(run),
        *_about_the_edge(run),
    ]


def _about_accuracy(run: Run) -> list[Advice]:
    accuracy = run.result.get("accuracy")
    if not accuracy:
        return [Advice("Without an accuracy the costs say little: retrain the network.")]
    found, value = [], accuracy["value"]
    chance = 1 / run.space.num_classes
    if run.is_space_known and value < min(2 * chance, (1 + chance) / 2):
        found.append(
            Advice(
                f"The network is right on {_percent(value)}, guessing is on {_percent(chance)}:"
                " train it longer with retrain.epochs, and look at the images and their labels."
            )
        )
        return found
    rates = [
        (record["epoch"], record["accuracy"])
        for record in run.history
        if record.get("phase") == RETRAIN
        and is_number(record.get("accuracy"))
        and is_number(record.get("epoch"))
    ]
    if len(rates) >= 5:
        last, rate = rates[-1]
        before = next(r for epoch, r in rates if epoch >= (1 - _LAST) * last)
        if rate - before >= 0.02:
            found.append(
                Advice(
                    f"Retraining was still gaining: {_points(rate - before)} on its training"
                    f" images in the last fifth of {last} epochs. Raise retrain.epochs.",
                    f"--set=retrain.epochs={2 * last}",
                )
            )
        elif rate - value >= 0.1:
            found.append(
                Advice(
                    f"The network is right on {_percent(rate)} of its training images and"
                    f" {_percent(value)} of others: it needs more images, or a higher"
                    " retrain.weight_decay."
                )
            )
    return found


def _about_cost(run: Run, rivals: ExactParts | None) -> list[Advice]:
    weight = run.result["objective"].get("lambda_2")
    if not is_number(weight) or run.limits is not None:
        return []
    if weight == 0:
        return [
            Advice("lambda_2 is 0, so that cost had no say: give it one.", _LAMBDA.format(0.02))
        ]
    for collapse in (run.result.get("collapses") or [])[-1:]:
        if collapse["is_restarted"]:
            return [
                Advice(
                    f"lambda_2 = {weight:g} was too high and fell to"
                    f" {collapse['lambda_2_after']:g} during the search, which cost steps: begin"
                    " with that.",
                    _LAMBDA.format(collapse["lambda_2_after"]),
                )
            ]
    num_skippable = sum(block.is_skippable for block in run.space.blocks)
    if num_skippable and _num_skipped(run) == num_skippable:
        return [
            Advice(
                f"Every block that can be Zero is: lower lambda_2 ({weight:g}), under which none"
                " was worth its cost.",
                _LAMBDA.format(weight / 3),
            )
        ]
    if (
        rivals is not None
        and rivals.largest is not None
        and (run.architecture.ops == rivals.largest.ops)
    ):
        return [
            Advice(
                f"This is the largest network of the space: raise lambda_2 ({weight:g}), under"
                " which no saving was worth its accuracy.",
                _LAMBDA.format(weight * 3),
            )
        ]
    return []


_LAMBDA = "--set=search.lambda_2={:.3g}"


def _about_limits(run: Run) -> list[Advice]:
    if run.limits is None:
        return []
    found, cost = [], run.costs["exact_cost"]
    if run.result["limits"]["is_repaired"]:
        lost = number(run.result["limits"]["lost_log_probability"])
        found.append(
            Advice(
                f"The search ended above its limits, and its network was replaced by one that it"
                f" preferred less (by {lost} nats): raise search.lambda_2 or loosen the limits."
            )
        )
    for metric in METRICS:
        limit = getattr(run.limits, f"max_{metric}")
        if limit is not None and cost[metric] >= 0.98 * limit:
            found.append(
                Advice(
                    f"max_{metric} = {limit:g} is used to {_percent(cost[metric] / limit)}: it is"
                    " what holds the network back, if anything does."
                )
            )
    return found


def _about_the_end(end: _End) -> list[Advice]:
    if not end.undecided and not (end.moved and end.moved > 0.01):
        return []
    return [
        Advice(
            "The search has not settled: give it more search.epochs, or a higher"
            " search.arch_learning_rate."
        )
    ]


def _about_the_evaluator(run: Run) -> list[Advice]:
    predicted = run.costs.get("predicted_cost")
    exact = run.costs.get("evaluator_accelerator_exact_cost")
    if predicted is None or exact is None or not exact["objective"]:
        return []
    error = predicted["objective"] / exact["objective"] - 1
    if abs(error) < 0.05:
        return []
    return [
        Advice(
            f"The evaluator is {_percent(abs(error))} off at the network found: search with the"
            " exact one, or train it further.",
            "--set=evaluator.kind=exact",
        )
    ]


def _about_the_edge(run: Run) -> list[Advice]:
    edges = []
    for name in ("pe_x", "pe_y", "rf_bytes"):
        values = getattr(run.config.hardware.accelerators, name)
        value = getattr(run.accelerator, name)
        if len(values) > 1 and value in (values[0], values[-1]):
            edges.append(f"{name} {value} is the {'least' if value == values[0] else 'most'}")
    if not edges:
        return []
    return [
        Advice(
            f"The accelerator lies at the edge of its space ({enumeration(edges)}): a wider"
            " hardware.accelerators may hold a better one."
        )
    ]


def _times(ratio: float) -> str:
    return f"{number(ratio, 3)} times"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _blocks(indices: Sequence[int]) -> str:
    return f"block{'s' * (len(indices) > 1)} {enumeration(list(map(str, indices)))}"
