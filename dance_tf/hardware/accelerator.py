"""The accelerator space: enumerate, encode, decode.

Row i of the space is the i-th element of the product pe_x x pe_y x rf_bytes x
dataflow, the last varying fastest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dance_tf.config import AcceleratorSpaceConfig
from dance_tf.errors import UserError
from dance_tf.files import Json
from dance_tf.structs import DATAFLOWS, Accelerator, Accelerators

__all__ = ["HEADS", "AcceleratorSpace", "accelerator_to_json"]

#: The searched fields of an accelerator, outer to inner in the enumeration.
HEADS = ("pe_x", "pe_y", "rf_bytes", "dataflow")


@dataclasses.dataclass(frozen=True)
class AcceleratorSpace:
    """All accelerators whose fields take the configured values.

    >>> config = AcceleratorSpaceConfig(pe_x=(8, 16), pe_y=(8,), rf_bytes=(32, 64))
    >>> space = AcceleratorSpace(config)
    >>> len(space)
    12
    >>> space.decode(7)
    Accelerator(pe_x=16, pe_y=8, rf_bytes=32, dataflow='output_stationary')
    >>> space.encode(space.decode(7))
    7
    """

    config: AcceleratorSpaceConfig = dataclasses.field(default_factory=AcceleratorSpaceConfig)

    @property
    def head_sizes(self) -> tuple[int, ...]:
        """Number of values of each of HEADS."""
        return tuple(len(getattr(self.config, head)) for head in HEADS)

    def __len__(self) -> int:
        return int(np.prod(self.head_sizes))

    def head_indices(self, index: int | Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return the position of each field's value, int32 [A, 4], of some rows or of all."""
        index = np.arange(len(self)) if index is None else np.asarray(index)
        return np.stack(np.unravel_index(index, self.head_sizes), axis=-1).astype(np.int32)

    def index_of_heads(self, head_indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the rows, int32 [...], of positions [..., 4]; inverse of `head_indices`."""
        positions = np.moveaxis(np.asarray(head_indices), -1, 0)
        return np.ravel_multi_index(tuple(positions), self.head_sizes).astype(np.int32)

    def all(self) -> Accelerators:
        """Return every accelerator, fields int32 [A]."""
        columns = self.head_indices().T
        values = [np.asarray(getattr(self.config, head)) for head in HEADS[:3]]
        codes = np.asarray([DATAFLOWS.index(d) for d in self.config.dataflow])
        fields = [v[c] for v, c in zip([*values, codes], columns, strict=True)]
        return Accelerators(*(np.asarray(f, np.int32) for f in fields))

    def decode(self, index: int) -> Accelerator:
        """Return row `index`."""
        if not 0 <= index < len(self):
            raise UserError(f"accelerator index {index} is outside 0..{len(self) - 1}")
        head = self.head_indices(int(index))
        values = (getattr(self.config, h)[i] for h, i in zip(HEADS, head, strict=True))
        return Accelerator(*values)

    def encode(self, accelerator: Accelerator) -> int:
        """Return the row of an accelerator.

        Raises:
            UserError: If a field's value is not in the space.
        """
        positions = []
        for head in HEADS:
            values, value = getattr(self.config, head), getattr(accelerator, head)
            if value not in values:
                raise UserError(
                    f"accelerator: {head} = {value} is outside the space, which has"
                    f" {', '.join(map(str, values))}"
                )
            positions.append(values.index(value))
        return int(self.index_of_heads(positions))


def accelerator_to_json(accelerator: Accelerator) -> dict[str, Json]:
    """Return the accelerator as plain JSON data."""
    return dataclasses.asdict(accelerator)
