"""Records of a search: one per history line, and the result of the whole run."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from dance_tf.errors import UserError
from dance_tf.files import Json, read_json, write_json
from dance_tf.hardware.accelerator import accelerator_to_json
from dance_tf.hardware.objective import Objective
from dance_tf.run.reporting import read_history
from dance_tf.structs import Accelerator, Architecture
from dance_tf.supernet.search_space import NetworkSpace

if TYPE_CHECKING:
    import pandas

__all__ = [
    "PHASES",
    "SCHEMA_VERSION",
    "Accuracy",
    "CostRecord",
    "Int8Accuracy",
    "SearchRecord",
    "SearchResult",
    "op_counts",
    "read_records",
]

#: Version of result.json; a change that an older reader would misread raises it.
SCHEMA_VERSION = 1

#: Phases of a search in history.jsonl, which may hold lines of other phases too.
PHASES = ("warmup", "search")


@dataclasses.dataclass(frozen=True)
class CostRecord:
    """Cost of one architecture on one accelerator."""

    latency_ms: float
    latency_cycles: int
    energy_mj: float
    area_mm2: float
    edap_ms_mj_mm2: float
    objective: float  # value of the run's objective, on metrics normalised by its reference

    @classmethod
    def from_metrics(
        cls,
        metrics: ArrayLike,
        *,
        objective: Objective,
        reference: ArrayLike,
        cycles_per_ms: float,
    ) -> CostRecord:
        """Build the record of metrics [3]."""
        latency_ms, energy_mj, area_mm2 = (float(m) for m in np.asarray(metrics, np.float64))
        return cls(
            latency_ms=latency_ms,
            latency_cycles=round(latency_ms * cycles_per_ms),
            energy_mj=energy_mj,
            area_mm2=area_mm2,
            edap_ms_mj_mm2=latency_ms * energy_mj * area_mm2,
            objective=float(objective(np.asarray(metrics, np.float32), reference)),
        )


@dataclasses.dataclass(frozen=True)
class SearchRecord:
    """One line of history.jsonl. Losses are means over the steps since the line before.

    Holds no times, so that two runs with one seed write the same lines. The fields from
    `architecture_cross_entropy` to `objective` are None during warm-up, where there are
    no architecture steps; those of `train` are None where weights are frozen.
    """

    step: int  # weight steps done
    epoch: int  # epochs begun, from 1
    phase: str  # "warmup" or "search"
    cross_entropy: float | None  # on train
    accuracy: float | None  # on train
    architecture_cross_entropy: float | None  # on architecture
    lambda_2: float | None
    objective: float | None  # predicted, of the mixture: what lambda_2 multiplies
    mixture_entropy: tuple[float, ...]  # of each block, nats
    ops: tuple[str, ...]  # the argmax architecture, whose costs follow
    zero_share: float  # of its skippable blocks
    accelerator: Accelerator  # the evaluator's choice
    predicted_latency_ms: float
    predicted_energy_mj: float
    predicted_area_mm2: float
    exact_latency_ms: float  # of the same architecture on the same accelerator
    exact_energy_mj: float
    exact_area_mm2: float
    zero_weight: float | None = None  # of the mixture, averaged over the skippable blocks
    # The last two are None but under limits that are kept by altering architecture steps.
    altered_share: float | None = None  # of the steps
    limit_excess: float | None = None  # the derived network's largest cost / limit - 1, predicted

    def to_json(self) -> dict[str, Json]:
        """Return the record as plain JSON data."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, data: dict[str, Json]) -> SearchRecord:
        """Build a record from JSON data."""
        accelerator = Accelerator.from_json(data["accelerator"], "history.jsonl")
        tuples = {name: tuple(data[name]) for name in ("mixture_entropy", "ops")}
        names = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in data.items() if name in names}
        return cls(**{**values, **tuples, "accelerator": accelerator})


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Share of right answers of the retrained network."""

    split: str
    value: float
    num_images: int


@dataclasses.dataclass(frozen=True)
class Int8Accuracy:
    """Share of right answers of the retrained network in 8-bit words, beside that in float."""

    split: str
    value: float  # of the int8 TFLite network
    num_images: int
    float_value: float  # of the network as it was retrained
    post_training_value: float  # of the int8 network without a fine-tune
    fine_tuned_value: float | None = None  # of the int8 network with it; None: there was none

    @property
    def points_lost(self) -> float:
        """Percentage points of accuracy that 8-bit words cost."""
        return 100 * (self.float_value - self.value)


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """Network and accelerator that a search found, their costs, and the search's effort.

    The predicted cost is of the architecture on the accelerator that the evaluator
    chooses; `evaluator_accelerator_exact_cost` is the exact cost of that same pair. The
    accelerator of the run is the exact best one for the architecture within the limits,
    and the exact cost is of this pair.

    >>> from dance_tf import DanceSearch, ExactEvaluator, SearchProblem, load_images
    >>> from dance_tf import load_or_build_table, make_space
    >>> from dance_tf.config import AcceleratorSpaceConfig, DataConfig, HardwareConfig
    >>> from dance_tf.config import SearchConfig, SpaceConfig
    >>> accelerators = AcceleratorSpaceConfig((8, 16), (8,), (64,), ("row_stationary",))
    >>> table = load_or_build_table(
    ...     make_space(SpaceConfig("tiny_mbconv")), HardwareConfig(accelerators=accelerators)
    ... )
    >>> images = load_images(DataConfig("digits"), input_size=table.space.input_size)
    >>> problem = SearchProblem(table.space, table, ExactEvaluator(table), images)
    >>> config = SearchConfig(fixed_architecture=("mbconv3_e3", "zero"))  # trains nothing
    >>> result = DanceSearch(config).search(problem)
    >>> result.accelerator.pe_x, result.num_trained_candidates, result.accuracy_reason
    (8, 0, 'the network was not retrained')
    """

    architecture: Architecture
    accelerator: Accelerator
    exact_cost: CostRecord
    predicted_cost: CostRecord
    evaluator_accelerator: Accelerator
    evaluator_accelerator_exact_cost: CostRecord
    exact_best_accelerator: Accelerator  # whatever the limits
    exact_best_cost: CostRecord
    objective: dict[str, Json]
    evaluator: str
    op_counts: dict[str, int]
    zero_share: float  # of the skippable blocks
    warnings: tuple[str, ...]
    # [D, O]; None where the op is not allowed. Empty where no network was searched.
    arch_logits: tuple[tuple[float | None, ...], ...]
    seed: int
    num_weight_steps: int
    num_architecture_steps: int
    num_cost_model_calls: int
    evaluator_reason: str | None = None  # why that one, if none was asked for and none fitted
    limits: dict[str, Json] | None = None  # as given, and what it took to keep them
    collapses: tuple[dict[str, Json], ...] = ()  # as CollapseGuard.collapses
    num_trained_candidates: int = 0  # networks retrained; the supernet is none
    accuracy_source: dict[str, Json] | None = None  # of search.accuracy=predictor
    accuracy: Accuracy | None = None
    accuracy_reason: str | None = "the network was not retrained"  # why there is none
    int8_accuracy: Int8Accuracy | None = None  # where it was measured
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    is_deterministic: bool = False
    times: dict[str, Json] = dataclasses.field(default_factory=dict)  # all that differs run to run
    history: tuple[SearchRecord, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Return result.json; the history is a file of its own."""
        data = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "history"
        }
        for name, value in data.items():
            if isinstance(value, Accelerator):
                data[name] = accelerator_to_json(value)
            elif dataclasses.is_dataclass(value) and not isinstance(value, type):
                data[name] = dataclasses.asdict(value)
        if self.accuracy is not None:
            del data["accuracy_reason"]
        return {"schema_version": SCHEMA_VERSION, **data}

    def save(self, output_dir: str) -> str:
        """Write result.json into a run folder and return its path."""
        path = os.path.join(output_dir, "result.json")
        write_json(path, self.to_json())
        return path

    @classmethod
    def load(cls, path: str) -> SearchResult:
        """Read result.json, and the history beside it where there is one.

        Args:
            path: The file, or the run folder that holds it.
        Raises:
            UserError: If it cannot be read or is of another schema.
        """
        if os.path.isdir(path):
            path = os.path.join(path, "result.json")
        data = read_json(path)
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise UserError(f"{path}: schema_version is {version!r}, this reads {SCHEMA_VERSION}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        values = {name: value for name, value in data.items() if name in fields}
        try:
            for name, value in values.items():
                if name.endswith("accelerator"):
                    values[name] = Accelerator.from_json(value, path)
                elif name.endswith("_cost"):
                    values[name] = CostRecord(**value)
            values["architecture"] = Architecture.from_json(data["architecture"], path)
            if values.get("accuracy") is not None:
                values["accuracy"] = Accuracy(**values["accuracy"])
                values["accuracy_reason"] = None
            if values.get("int8_accuracy") is not None:
                values["int8_accuracy"] = Int8Accuracy(**values["int8_accuracy"])
            values["warnings"] = tuple(data["warnings"])
            values["collapses"] = tuple(data.get("collapses", ()))
            values["arch_logits"] = tuple(tuple(row) for row in data["arch_logits"])
            history = os.path.join(os.path.dirname(path), "history.jsonl")
            return cls(**values, history=read_records(history) if os.path.exists(history) else ())
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: not the result of a search ({error})") from None

    def to_frame(self) -> pandas.DataFrame:
        """Return the history as a pandas.DataFrame, one row per record, a column per number."""
        import pandas

        rows = []
        for record in self.history:
            row = record.to_json()
            row.update({f"accelerator_{k}": v for k, v in row.pop("accelerator").items()})
            for name in ("mixture_entropy", "ops"):
                row.update({f"{name}_{i}": v for i, v in enumerate(row.pop(name))})
            rows.append(row)
        return pandas.DataFrame(rows)


def op_counts(space: NetworkSpace, architecture: Architecture) -> tuple[dict[str, int], float]:
    """Return how often each op was chosen, and the share of Zero among skippable blocks."""
    counts = {op: architecture.ops.count(op) for op in space.op_names}
    num_skippable = sum(block.is_skippable for block in space.blocks)
    num_skipped = space.skip_mask[range(space.num_blocks), space.to_indices(architecture)].sum()
    return counts, float(num_skipped) / max(1, num_skippable)


def read_records(path: str) -> tuple[SearchRecord, ...]:
    """Return the search's records of a history.jsonl."""
    lines = read_history(path)
    return tuple(SearchRecord.from_json(line) for line in lines if line.get("phase") in PHASES)
