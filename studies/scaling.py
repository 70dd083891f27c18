"""Scaling on paper, from parts that are measured here: many GPUs, and a sweep on many nodes.

Measured: weights, MACs and seconds of a training step of the largest network of
`imagenet_mbconv` on this machine's CPU, the bytes of its cost table, and what a finished search
costs the command of a sweep that has so many already. Assumed, and named in the file: what a
GPU and a link sustain, and the length of a search. The rest is arithmetic:

    step  = batch * 6 * MACs / (GPUs * sustained) + 2 (GPUs - 1) / GPUs * 4 bytes * weights / link
    sweep = max(searches * (search + accuracy) / tasks at a time + start, searches * command)

python -m studies.scaling --output=studies/results/scaling.json
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time

import numpy as np
import tensorflow as tf

from dance_tf.config import RetrainConfig, SpaceConfig
from dance_tf.files import Json, write_json
from dance_tf.hardware.layers import op_macs
from dance_tf.run import run_info
from dance_tf.search.sweep.fronts import Point, SweepSearch, summary
from dance_tf.structs import METRICS
from dance_tf.supernet.sgd import RowSGD
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import build_network

_SPACE = "imagenet_mbconv"
_NUM_IMAGES, _EPOCHS, _BATCH = 1_281_167, 300, 2048
_NUM_SEARCHES, _SEARCH_S, _START_S, _NUM_JUDGED = 1000, 600.0, 20.0, 2000

#: Not measured: float32 operations a second and bytes a second that a device and a link sustain.
_ASSUMED = {"flops_per_s": 2e13, "link_bytes_per_s": 1e10}

_MEASURED_BATCH = 4
_NUM_ACCELERATORS = 17 * 17 * 5 * 3


def main() -> None:
    """Measure, reckon, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, help="JSON file to write.")
    output = parser.parse_args().output
    network = _network_parts()
    command = {str(n): _command_s(n) for n in (10, 100, _NUM_SEARCHES)}
    record = {
        "machine": run_info.machine(),
        "load": round(os.getloadavg()[0], 2),
        "measured": {**network, "command_s_per_search": command},
        "assumed": {**_ASSUMED, "search_s": _SEARCH_S, "start_s": _START_S},
        "training": {
            "batch": _BATCH,
            "epochs": _EPOCHS,
            "by_gpus": {str(n): _training(network, n) for n in (1, 8, 64)},
        },
        "sweep": {
            "num_searches": _NUM_SEARCHES,
            "by_tasks": {
                device: {str(n): _sweep(command, accuracy_s, n) for n in (1, 8, 100, 1000)}
                for device, accuracy_s in _accuracy_s(network).items()
            },
        },
    }
    write_json(output, record)
    print(json.dumps(record, indent=2))


def _network_parts() -> dict[str, float]:
    """Measure the largest network: its weights, MACs, seconds per step here; the table's bytes."""
    space = make_space(SpaceConfig(_SPACE))
    largest = np.argmax(op_macs(space)[1], axis=-1)
    architecture = space.from_indices(largest)
    network = build_network(space, architecture, is_for_training=True)
    weights = network.trainable_variables
    optimizer = RowSGD(RetrainConfig().learning_rate)
    optimizer.build(weights)

    @tf.function(autograph=False)
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = network(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        values = [variable.value for variable in weights]
        optimizer.apply(tape.gradient(loss, values), weights)
        return loss

    images = tf.zeros([_MEASURED_BATCH, *space.input_shape])
    labels = tf.zeros([_MEASURED_BATCH], tf.int32)
    step(images, labels)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        float(step(images, labels))
        times.append(time.perf_counter() - began)
    return {
        "num_weights": int(sum(np.prod(v.shape) for v in weights)),
        "macs": int(sum(layer.macs for layer in space.layers(architecture))),
        "cpu_step_s": round(float(np.median(times)), 3),
        "cpu_step_batch": _MEASURED_BATCH,
        "table_bytes": int(2 * 4 * space.op_mask.size * _NUM_ACCELERATORS),
    }


def _command_s(num_points: int) -> float:
    """Measure what the command of a sweep does with one more search: the front, and the file."""
    draw = np.random.default_rng(0)
    reachable = {name: (0.1, 10.0) for name in METRICS}
    names = ("edap_ms_mj_mm2", "objective", "predicted_edap_ms_mj_mm2", "evaluator_edap_ms_mj_mm2")
    points = [
        Point(
            search=SweepSearch("EDAP", 0.1, seed),
            ops=("mbconv3_e6",) * 21,
            accelerator={"pe_x": 16, "pe_y": 16, "rf_bytes": 64, "dataflow": "row_stationary"},
            **dict(zip(METRICS, np.exp(draw.uniform(-2, 2, 3)).tolist(), strict=True)),
            **dict.fromkeys(names, 1.0),
            zero_share=0.0,
            num_architecture_steps=100,
            inherited_error=float(draw.uniform(0.1, 0.9)),
        )
        for seed in range(num_points)
    ]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        write_json(os.path.join(folder, "pareto.json"), summary(points, reachable))
        return round(time.perf_counter() - began, 3)


def _training(network: dict[str, float], num_gpus: int) -> dict[str, Json]:
    exchanged = 2 * (num_gpus - 1) / num_gpus * 4 * network["num_weights"]
    compute_s = _BATCH * 6 * network["macs"] / (num_gpus * _ASSUMED["flops_per_s"])
    exchange_s = exchanged / _ASSUMED["link_bytes_per_s"]
    steps = _EPOCHS * (_NUM_IMAGES // _BATCH)
    return {
        "bytes_exchanged_per_step": round(exchanged),
        "compute_s": round(compute_s, 4),
        "exchange_s": round(exchange_s, 4),
        "hours": round(steps * (compute_s + exchange_s) / 3600, 1),
    }


def _accuracy_s(network: dict[str, float]) -> dict[str, float]:
    """Return the seconds of an inherited accuracy on this CPU, and on a GPU."""
    forward_s = network["cpu_step_s"] / network["cpu_step_batch"] / 3
    on_gpu = 2 * network["macs"] / _ASSUMED["flops_per_s"]
    return {
        "tasks_on_cpu": _NUM_JUDGED * forward_s,
        "tasks_on_gpu": _NUM_JUDGED * on_gpu,
    }


def _sweep(command: dict[str, float], accuracy_s: float, num_tasks: int) -> dict[str, Json]:
    working_s = _NUM_SEARCHES * (_SEARCH_S + accuracy_s) / num_tasks + _START_S
    # What a search costs the command grows with those that are there: half of the last, on average.
    command_s = _NUM_SEARCHES * command[str(_NUM_SEARCHES)] / 2
    limit = "tasks" if working_s > command_s else "command"
    return {"hours": round(max(working_s, command_s) / 3600, 2), "limited_by": limit}


if __name__ == "__main__":
    main()
