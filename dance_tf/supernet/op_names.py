"""Names of the shipped candidate ops.


An op is known by its name, which spells its parameters:

    mbconvK_eE     1x1 expansion by E, KxK depthwise, 1x1 projection
    convK          KxK convolution, with the activation; convK_gG: in G groups
    residualK      two KxK convolutions, the basic block
    separableK     KxK depthwise, 1x1 convolution
    encoder_hH_kW_fF   self-attention of H heads with keys of W channels, then a feed-forward
                   part of F times the block's channels; see encoder.py
    identity       nothing where the block keeps its shape, else a strided 1x1 convolution
    zero           nothing; only where the block keeps its shape

K is odd. Suffixes, in this order: `_se` (mbconv: squeeze and excite after the depthwise
convolution), `_relu`, `_relu6`, `_hswish` (activation other than the space's) and `_wX`
(mbconv, residual: inner channels times X, such as `_w0.5`). Batch normalisation follows each
convolution. The identity around a skippable block is no part of an op, and nothing activates
its sum. On series a kernel runs along time alone.
"""

from __future__ import annotations

import functools
import re

from dance_tf.errors import UserError
from dance_tf.supernet.candidate_ops import ChainOp
from dance_tf.supernet.encoder import Encoder
from dance_tf.supernet.op_kinds import (
    SUFFIX_OF,
    Conv,
    Identity,
    MBConv,
    Residual,
    Separable,
    Zero,
)

__all__ = ["op_kernel_expansion", "op_words", "parse_op"]

#: Classes of the ops that have names of their own.
_KINDS: tuple[type[ChainOp] | type[Encoder], ...] = (
    MBConv,
    Conv,
    Residual,
    Separable,
    Encoder,
    Identity,
    Zero,
)


@functools.cache
def parse_op(name: str) -> ChainOp | Encoder:
    """Return the op of a name.

    >>> parse_op("mbconv3_e6_se")
    MBConv(kernel=3, expansion=6, squeeze_excite=True, activation=None, width=1.0)

    Raises:
        UserError: If it is not the name of an op.
    """
    for kind in _KINDS:
        found = re.fullmatch(kind.pattern, str(name))
        if found is None:
            continue
        values = {key: text for key, text in found.groupdict().items() if text is not None}
        fields: dict[str, int | float | str | bool] = {}
        for key, text in values.items():
            if key == "se":
                fields["squeeze_excite"] = True
            elif key == "activation":
                fields["activation"] = {s: a for a, s in SUFFIX_OF.items()}[text]
            else:
                fields[key] = float(text) if key == "width" else int(text)
        op = kind(**fields)  # type: ignore[arg-type]
        numbers = [v for v in fields.values() if not isinstance(v, str)]
        is_odd = int(fields.get("kernel", 1)) % 2 == 1
        if is_odd and all(value > 0 for value in numbers) and op.name == name:
            return op
    raise UserError(
        f"unknown op {name!r}; there are zero, identity, mbconvK_eE, convK, convK_gG, residualK,"
        " separableK and encoder_hH_kW_fF, of an odd kernel size K, such as mbconv3_e6; suffixes"
        " _se, _relu, _relu6, _hswish and _wX, in this order"
    )


def op_kernel_expansion(op_name: str) -> tuple[int, int] | None:
    """Return kernel size and expansion of an MBConv op, None of every other name."""
    try:
        op = parse_op(op_name)
    except UserError:  # an op of a user's own
        return None
    return (op.kernel, op.expansion) if isinstance(op, MBConv) else None


def op_words(op_name: str) -> str:
    """Return an op in words; the name of an op of a user's own."""
    try:
        return parse_op(op_name).words
    except UserError:
        return op_name
