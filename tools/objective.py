"""The objective that several tools take by the same flags."""

from __future__ import annotations

from absl import flags

from dance_tf.errors import UserError

__all__ = ["define_objective_flags", "objective_terms"]

_KINDS = ("EDAP", "linear", "product")


def define_objective_flags(values: flags.FlagValues, purpose: str) -> None:
    """Add --objective and --objective_weights to the flags of a tool.

    Args:
        values: The tool's flags.
        purpose: What minimises it, as the beginning of a sentence.
    """
    flags.DEFINE_enum(
        "objective",
        "EDAP",
        _KINDS,
        f"{purpose} minimises: energy x delay x area, or a sum or a product of powers of the"
        " three with --objective_weights.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "objective_weights",
        None,
        "Weights (linear) or powers (product) of latency, energy and area, such as 2,1,1. The sum"
        " is of metrics divided by those of a reference. (default: 1,1,1)",
        flag_values=values,
    )


def objective_terms(values: flags.FlagValues) -> tuple[str, tuple[float, float, float]]:
    """Return kind and weights, the arguments of hardware.objective.Objective.

    Raises:
        UserError: If the weights are not three numbers, or go with no objective.
    """
    name, texts = values["objective"].value, values["objective_weights"].value
    kind = "linear" if name == "linear" else "product"
    if texts is None:
        return kind, (1.0, 1.0, 1.0)
    if name == "EDAP":
        raise UserError("--objective_weights goes with --objective=linear or product")
    try:
        latency, energy, area = map(float, texts)
    except ValueError:
        raise UserError(
            f"--objective_weights={','.join(texts)}: three numbers are needed, of latency,"
            " energy and area"
        ) from None
    return kind, (latency, energy, area)
