"""Ask an evaluator that TensorFlow Serving serves, by REST or gRPC; prints JSON.

    --signature=serving_default   the accelerator that it generates, and its metrics
    --signature=estimate_cost     the metrics on the accelerator of --accelerator
    --signature=exact             the exact best accelerator, and its metrics

The network is --architecture (op names with commas, or the result.json of a search) or
--mixture_weights, a JSON file of numbers [D, O] or, for many, [B, D, O], D being the
blocks and O the candidate ops. Says in one line why a server does not answer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from absl import flags

from dance_tf.config import ExperimentConfig
from dance_tf.errors import UserError
from dance_tf.files import Json, read_json, strict_data
from dance_tf.structs import DATAFLOWS, Architecture

from . import flags as common
from .objective import define_objective_flags, objective_terms
from .workload import parse_accelerator, read_architecture

if TYPE_CHECKING:
    import numpy as np

FLAGS = common.shared_flags("preset", "config", "set")
define_objective_flags(FLAGS, "What the accelerator")
_ARCHITECTURE = flags.DEFINE_string(
    "architecture",
    None,
    "One network of the space: op names with commas, or a result.json.",
    flag_values=FLAGS,
)
_MIXTURE_WEIGHTS = common.define_path(
    "mixture_weights", "JSON file of numbers [D, O] or [B, D, O].", FLAGS
)
_ACCELERATOR = flags.DEFINE_string(
    "accelerator",
    None,
    "With --signature=estimate_cost: its fields with commas, such as"
    " pe_x=16,pe_y=16,rf_bytes=64,dataflow=row_stationary.",
    flag_values=FLAGS,
)
_SIGNATURE = flags.DEFINE_enum(
    "signature",
    "serving_default",
    ["serving_default", "estimate_cost", "exact"],
    "What to ask.",
    flag_values=FLAGS,
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol",
    "rest",
    ["rest", "grpc"],
    "How to ask; gRPC needs the package tensorflow-serving-api.",
    flag_values=FLAGS,
)
_SERVER = flags.DEFINE_string(
    "server",
    None,
    "HOST:PORT. Otherwise this machine, port 8501 for REST and 8500 for gRPC.",
    flag_values=FLAGS,
)
_MODEL_NAME = flags.DEFINE_string(
    "model_name", "evaluator", "What the server calls the evaluator.", flag_values=FLAGS
)
_MODEL_VERSION = flags.DEFINE_integer(
    "model_version",
    None,
    "Version to ask. Otherwise the newest.",
    lower_bound=0,
    flag_values=FLAGS,
)
_TIMEOUT_S = flags.DEFINE_float(
    "timeout_s", 10.0, "Seconds to wait for an answer.", lower_bound=0.001, flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    """Ask and print."""
    del argv
    if (_ARCHITECTURE.value is None) == (_MIXTURE_WEIGHTS.value is None):
        raise UserError("give one of --architecture and --mixture_weights")
    if (_ACCELERATOR.value is None) == (_SIGNATURE.value == "estimate_cost"):
        raise UserError("--accelerator and --signature=estimate_cost go together")
    if _ACCELERATOR.value is not None and FLAGS["objective"].present:
        raise UserError("--objective does not go with --signature=estimate_cost")
    kind, weights = objective_terms(FLAGS)
    accelerator = None if _ACCELERATOR.value is None else parse_accelerator(_ACCELERATOR.value)
    config, architecture = read_architecture(FLAGS)
    unread = {} if architecture else {"space": "--architecture"}
    if accelerator is None:
        unread["hardware.accelerators"] = "--accelerator"
    common.check_effects(config, "query_evaluator", FLAGS, unread=unread)
    mixtures = _read_mixtures(_MIXTURE_WEIGHTS.value)

    common.load_tensorflow()
    from dance_tf.export.serving_client import predict
    from dance_tf.hardware.accelerator import AcceleratorSpace
    from dance_tf.hardware.objective import Objective

    inputs: dict[str, Json | np.ndarray | int] = {
        "mixture_weights": _one_hot(config, architecture) if architecture else mixtures
    }
    if accelerator is None:
        inputs["objective_vectors"] = Objective(kind, weights).vector
    else:
        space = AcceleratorSpace(config.hardware.accelerators)
        inputs["accelerator_index"] = space.encode(accelerator)
    outputs = predict(
        inputs,
        protocol=_PROTOCOL.value,
        server=_SERVER.value,
        model_name=_MODEL_NAME.value,
        model_version=_MODEL_VERSION.value,
        signature=_SIGNATURE.value,
        timeout_s=_TIMEOUT_S.value,
    )
    columns = {name: list(outputs[name]) for name in sorted(outputs)}  # gRPC has no order
    if "dataflow" in columns:
        columns["dataflow"] = [_dataflow(code, row) for row, code in enumerate(columns["dataflow"])]
    report = {
        "signature": _SIGNATURE.value,
        "predictions": [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ],
    }
    print(json.dumps(strict_data(report), indent=2, allow_nan=False))


def _dataflow(code: int, row: int) -> str:
    if code not in range(len(DATAFLOWS)):
        raise UserError(
            f"the server answers with dataflow {code} in row {row}: known are"
            f" {', '.join(f'{number} ({name})' for number, name in enumerate(DATAFLOWS))}"
        )
    return DATAFLOWS[int(code)]


def _read_mixtures(path: str | None) -> list[Json] | None:
    if path is None:
        return None
    data = read_json(path)
    if not isinstance(data, list):
        raise UserError(f"--mixture_weights={path}: holds no array of numbers")
    return data


def _one_hot(config: ExperimentConfig, architecture: Architecture) -> np.ndarray:
    """Return an architecture as mixture weights, float32 [D, O]."""
    import numpy as np

    from dance_tf.supernet.space_files import make_space

    space = make_space(config.space)
    return np.eye(space.num_ops, dtype=np.float32)[space.to_indices(architecture)]


if __name__ == "__main__":
    common.run(main, FLAGS)
