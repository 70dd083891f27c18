"""Share of searches that end within a limit: by altered steps, and by a penalty in the loss.

    python -m studies.limits_hits --supernet_dir=runs/supernet --output_dir=runs/limits

For each seed a search without a limit gives a latency; then the limit is a share of it. A
search under the limit may be repaired when it ends, and its result always keeps to it; so
what counts here is `derived_is_within`: whether the network of the largest architecture
parameters did so by itself. Costs are exact. Searches are minutes each, on frozen weights of
one supernet; the same command goes on where it was stopped. Writes limits.json.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

from dance_tf.config import ExperimentConfig, config_to_json, override
from dance_tf.errors import UserError
from dance_tf.files import write_json
from dance_tf.presets import PRESETS, preset

#: Ways of keeping limits: name to the fields that choose it. A weight of 1 adds the share by which
#: a limit is exceeded, as much as a cross-entropy of 1.
KEPT_BY: dict[str, tuple[str, ...]] = {
    "gradient": ("search.limits=gradient",),
    "penalty 0.1": ("search.limits=penalty", "search.limit_penalty=0.1"),
    "penalty 1": ("search.limits=penalty", "search.limit_penalty=1"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Search what is missing, write limits.json and print how often limits were kept."""
    parser = argparse.ArgumentParser(
        prog="limits_hits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--supernet_dir", required=True, help="folder of `tools.train_supernet`")
    parser.add_argument("--output_dir", required=True, help="folder to write to, or to go on in")
    parser.add_argument("--shares", default="0.5,0.7,1", help="limits / unconstrained latency")
    parser.add_argument("--num_seeds", type=int, default=3)
    parser.add_argument(
        "--kept_by",
        action="append",
        choices=KEPT_BY,
        help="how the limits are kept; repeatable; all ways, if none is named",
    )
    parser.add_argument("--preset", choices=PRESETS, default="cifar10_small")
    parser.add_argument("--set", action="append", default=[], help="as in the tools; repeatable")
    options = parser.parse_args(argv)
    try:
        shares = [float(share) for share in options.shares.split(",")]
        config = override(
            preset(options.preset),
            [
                *options.set,
                f"search.supernet_dir={os.path.abspath(options.supernet_dir)}",
                "search.supernet_weights=frozen",
            ],
        )
        kept_by = options.kept_by or list(KEPT_BY)
        report = measure(config, options.output_dir, shares, options.num_seeds, kept_by)
    except (UserError, ValueError) as error:
        print(f"limits_hits: {error}", file=sys.stderr)
        return 1
    for row in report["summary"]:
        print(
            "{kept_by}, {share:g} of the unconstrained latency: {num_derived_within} of"
            " {num_searches} by themselves, {num_within} of {num_searches} at the end".format(**row)
        )
    return 0


def measure(
    config: ExperimentConfig,
    output_dir: str,
    shares: Sequence[float],
    num_seeds: int,
    kept_by: Sequence[str],
) -> dict[str, Any]:
    """Return the report, which is also limits.json in `output_dir`.

    Args:
        config: Of all searches: with a trained supernet and frozen weights.
        output_dir: Each search has a folder in it.
        shares: Limits, as shares of the latency that the same seed ends with without one.
        num_seeds: From config.seed up.
        kept_by: Keys of KEPT_BY.
    """
    # Late: a mistake is told before TensorFlow is waited for.
    from dance_tf.run.surroundings import make_deterministic
    from dance_tf.search.pipeline import prepare
    from dance_tf.search.sweep.tasks import search_in

    make_deterministic(config.seed)
    problem = prepare(config)
    rows: list[dict[str, Any]] = []
    report: dict[str, Any] = {}
    for seed in range(config.seed, config.seed + num_seeds):
        own = dataclasses.replace(config, seed=seed)
        free = search_in(os.path.join(output_dir, f"seed{seed}_free"), own, problem)
        for share in shares:
            limit_ms = share * free.exact_cost.latency_ms
            for way in kept_by:
                print(f"seed {seed}, limit {limit_ms:.4g} ms, {way}", file=sys.stderr)
                name = f"seed{seed}_{share:g}_{way.replace(' ', '_')}"
                limited = override(own, [*KEPT_BY[way], f"search.max_latency_ms={limit_ms!r}"])
                result = search_in(os.path.join(output_dir, name), limited, problem)
                rows.append(_row(seed, share, way, limit_ms, free, result))
                report = {
                    "config": _without_paths(config),
                    "rows": rows,
                    "summary": summary(rows),
                }
                write_json(os.path.join(output_dir, "limits.json"), report)
    return report


def _row(
    seed: int, share: float, kept_by: str, limit_ms: float, free: Any, result: Any
) -> dict[str, Any]:
    limits = result.limits
    return {
        "seed": seed,
        "share": share,
        "kept_by": kept_by,
        "max_latency_ms": limit_ms,
        "free_latency_ms": free.exact_cost.latency_ms,
        "free_edap_ms_mj_mm2": free.exact_cost.edap_ms_mj_mm2,
        "derived_latency_ms": limits["derived_exact"]["latency_ms"],
        "derived_is_within": not limits["is_repaired"],
        "latency_ms": result.exact_cost.latency_ms,
        "predicted_latency_ms": result.predicted_cost.latency_ms,
        "is_within": result.exact_cost.latency_ms <= limit_ms * (1 + 1e-6),
        "edap_ms_mj_mm2": result.exact_cost.edap_ms_mj_mm2,
        "lost_log_probability": limits["lost_log_probability"],
        "ops": list(result.architecture.ops),
        "zero_share": result.zero_share,
    }


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Count, for each share and way of keeping limits, who is within them."""
    groups: dict[tuple[float, str], list[dict[str, Any]]] = collections.defaultdict(list)
    for row in rows:
        groups[row["share"], row["kept_by"]].append(row)
    return [
        {
            "share": share,
            "kept_by": kept_by,
            "num_searches": len(group),
            "num_derived_within": sum(row["derived_is_within"] for row in group),
            "num_within": sum(row["is_within"] for row in group),
        }
        for (share, kept_by), group in groups.items()
    ]


def _without_paths(config: ExperimentConfig) -> dict[str, Any]:
    """Return the config as JSON data; where files lie is of one machine."""
    data = config_to_json(config)
    data["search"]["supernet_dir"] = data["data"]["data_dir"] = None
    return data


if __name__ == "__main__":
    sys.exit(main())
