"""Spaces of runs, written beside their results and read again without the user's code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

from dance_tf.errors import UserError
from dance_tf.files import Json
from dance_tf.structs import Layer
from dance_tf.supernet.candidate_ops import BlockShape
from dance_tf.supernet.search_space import Block, NetworkSpace

if TYPE_CHECKING:
    import keras

__all__ = ["RecordedOp", "space_from_json", "space_sha256", "space_to_json"]

_SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class RecordedOp:
    """Op of a user's own as it was costed: it can be counted, but not built."""

    name: str
    recorded: tuple[tuple[Block, tuple[Layer, ...]], ...]

    def fits(self, block: BlockShape) -> bool:
        """Return whether the op was costed at such a block."""
        return any(block == known for known, _ in self.recorded)

    def layers(self, block: BlockShape, prefix: str) -> tuple[Layer, ...]:
        """Return the layers as they were recorded."""
        for known, layers in self.recorded:
            if block == known:
                return tuple(
                    dataclasses.replace(layer, name=f"{prefix}/{layer.name}") for layer in layers
                )
        return ()

    def build(self, inputs: keras.KerasTensor, block: BlockShape, prefix: str) -> keras.KerasTensor:
        """Refuse: only the user's own class can build the op."""
        raise UserError(f"op {self.name!r} is an op of a user's own: build it with its class")


def space_to_json(space: NetworkSpace) -> dict[str, Json]:
    """Return a space as JSON data, with the layers of a user's own ops."""
    return {"schema_version": _SCHEMA_VERSION, **space.description()}


def space_from_json(data: Json, where: str) -> NetworkSpace:
    """Return the space of `space_to_json`, whose own ops are recorded ones.

    Raises:
        UserError: If the data are not of a space.
    """
    if not isinstance(data, dict) or data.get("schema_version") != _SCHEMA_VERSION:
        raise UserError(f"{where}: is not a network space of schema_version {_SCHEMA_VERSION}")
    fields = {key: _tuple(v) for key, v in data.items() if key not in ("schema_version", "own_ops")}
    try:
        is_series = bool(fields.get("is_series", False))
        blocks = []
        for in_channels, out_channels, output_size, stride, *op_names in fields.pop("blocks"):
            names = op_names[0] if op_names else None
            sizes = (in_channels, out_channels, output_size, stride)
            blocks.append(Block(*sizes, op_names=names, is_series=is_series))
        own = tuple(
            RecordedOp(name, tuple((blocks[d], tuple(map(_read_layer, x))) for d, x in recorded))
            for name, recorded in data.get("own_ops", {}).items()
        )
        return NetworkSpace(**fields, blocks=tuple(blocks), own_ops=own)
    except (TypeError, KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: is not a network space: {error}") from None


def _read_layer(data: Json) -> Layer:
    return Layer(**{key: _tuple(value) for key, value in data.items()})


def _tuple(value: Json) -> Json:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def space_sha256(space: NetworkSpace) -> str:
    """Return a hash of all that `space_to_json` holds."""
    text = json.dumps(space_to_json(space), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
