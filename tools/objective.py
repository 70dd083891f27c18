"""The objective that several tools take by the same flags."""

from __future__ import annotations

from absl import flags

from dance_tf.errors import UserError
from dance_tf.structs import OBJECTIVES, check_objective

__all__ = ["define_objective_flags", "objective_terms", "objective_weights"]


def define_objective_flags(
    values: flags.FlagValues, purpose: str, default: str | None = "EDAP"
) -> None:
    """Add --objective and --objective_weights to the flags of a tool.

    Args:
        values: The tool's flags.
        purpose: Beginning of the sentence that says what minimises the objective.
        default: Value of --objective where it is not given; None where a configuration has one.
    """
    flags.DEFINE_enum(
        "objective",
        default,
        list(OBJECTIVES),
        f"{purpose} minimises: energy x delay x area (EDAP); a sum in which latency, energy or"
        " area counts four times as much as each other one; or a sum (linear) or a product of"
        " powers with --objective_weights. A metric alone is linear with the other weights 0.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "objective_weights",
        None,
        "Weights (linear) or powers (product) of latency, energy and area, such as 2,1,1. Sums"
        " and products are of metrics divided by those of a reference. (default: 1,1,1)",
        flag_values=values,
    )


def objective_terms(values: flags.FlagValues) -> tuple[str, tuple[float, float, float]]:
    """Return kind and weights, the arguments of hardware.objective.Objective.

    Raises:
        UserError: If the weights are not three numbers, none of an objective, or go with none.
    """
    kind, weights = OBJECTIVES[str(values["objective"].value)]
    given = objective_weights(values)
    if weights is None:
        given = given or (1.0, 1.0, 1.0)
        check_objective(kind, given)
        return kind, given
    if given is not None:
        raise UserError("--objective_weights goes with --objective=linear or product")
    return kind, weights


def objective_weights(values: flags.FlagValues) -> tuple[float, float, float] | None:
    """Return the weights that were given.

    Raises:
        UserError: If they are not three numbers.
    """
    texts = values["objective_weights"].value
    if texts is None:
        return None
    try:
        latency, energy, area = map(float, texts)
    except ValueError:
        raise UserError(
            f"--objective_weights={','.join(texts)}: three numbers are needed, of latency,"
            " energy and area"
        ) from None
    return latency, energy, area
