"""Timeloop's architecture file as the fields of our accelerator and machine."""

from __future__ import annotations

import dataclasses
import math
import re

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.files import Json
from dance_tf.interop import timeloop as dialect
from dance_tf.interop.yaml_text import parse_yaml
from dance_tf.structs import DATAFLOWS, Accelerator

__all__ = ["TimeloopArchitecture", "read_architecture"]

_BUFFERS = ("DRAM", "SRAM", "regfile", "smartbuffer", "storage")
_COMPUTE = ("mac", "compute")

#: Attributes that change what Timeloop counts in a way that the cost model does not know, to
#: the value at which they change nothing.
_NOT_MODELLED: dict[str, Json] = {
    "allow_overbooking": False,
    "bandwidth": None,
    "min_utilization": 0,
    "multiple_buffering": 1,
    "network_drain_latency": 0,
    "network_fill_latency": 0,
}


@dataclasses.dataclass(frozen=True)
class TimeloopArchitecture:
    """Figures of an architecture file; None where it has none."""

    version: str
    levels: dict[str, str]  # our level to the file's name, outer to inner; Y_LEVEL among them
    pe_x: int
    pe_y: int
    rf_words: int  # of the shared register file, or of each of the split ones
    word_bits: int
    global_buffer_words: int
    global_buffer_words_per_cycle: float | None  # reads, and as many writes
    dram_words_per_cycle: float | None
    dataflow: str | None

    @property
    def is_split(self) -> bool:
        """Whether each operand has a register file of its own."""
        return "register_file" not in self.levels

    def accelerator(self, dataflow: str | None = None) -> Accelerator:
        """Return the accelerator.

        Args:
            dataflow: Which one, where the file leaves it open: weight_stationary and
                output_stationary machines look the same to Timeloop.
        Raises:
            UserError: If it is open and not given, or another than the file's.
        """
        if dataflow is None and self.dataflow is None:
            raise UserError(
                "the architecture does not say its dataflow: weight_stationary or output_stationary"
            )
        if None not in (dataflow, self.dataflow) and dataflow != self.dataflow:
            raise UserError(f"the architecture is {self.dataflow}, not {dataflow}")
        rf_bytes, rest = divmod(self.rf_words * self.word_bits, 8)
        if rest:
            raise UserError(f"a register file of {self.rf_words} words is not whole bytes")
        return Accelerator(self.pe_x, self.pe_y, rf_bytes, dataflow or self.dataflow or "")

    def machine(self, base: MachineConfig | None = None) -> MachineConfig:
        """Return a machine with the file's sizes and bandwidths, the rest being that of `base`."""
        kib, rest = divmod(self.global_buffer_words * self.word_bits, 8 * 1024)
        if rest:
            raise UserError(f"a global buffer of {self.global_buffer_words} words is not whole KiB")
        if self.global_buffer_words_per_cycle is None:
            raise UserError("the architecture does not say the bandwidth of its global buffer")
        return dataclasses.replace(
            base or MachineConfig(),
            rf_mode="split" if self.is_split else "shared",
            global_buffer_kib=kib,
            global_buffer_words_per_cycle=self.global_buffer_words_per_cycle,
            dram_words_per_cycle=self.dram_words_per_cycle,
            word_bits=self.word_bits,
        )


@dataclasses.dataclass(frozen=True)
class _Component:
    """One entry of a `local` list."""

    name: str
    kind: str  # its class
    count: int  # instances in the whole tree
    attributes: dict[str, Json]
    at: str  # for messages

    def integer(self, *keys: str) -> int | None:
        """Return the first of these attributes that is there."""
        value = self.number(*keys)
        if value is not None and not value.is_integer():
            key = next(key for key in keys if self.attributes.get(key) is not None)
            raise UserError(f"{self.at}: {key} is {value}, not a whole number")
        return None if value is None else int(value)

    def number(self, *keys: str) -> float | None:
        """Return the first of these attributes that is there."""
        for key in keys:
            value = self.attributes.get(key)
            if value is not None:
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                if not is_number or not 0 < value < math.inf:
                    raise UserError(f"{self.at}: {key} is {value!r}, not a positive number")
                return float(value)
        return None

    @property
    def word_bits(self) -> int:
        return self.integer("word_bits", "word_width", "datawidth") or 16  # Timeloop's default

    @property
    def words(self) -> int:
        """Return the capacity."""
        block = self.integer("block_size", "n_words") or 1
        depth = self.integer("depth", "memory_depth")
        if depth is not None:
            return depth * block
        kib = self.integer("sizeKB")
        words = self.integer("entries") if kib is None else kib * 1024 * 8 // self.word_bits
        if words is None:
            raise UserError(f"{self.at} has no size")
        return words

    @property
    def sides(self) -> tuple[int, int]:
        """Return instances along X and along Y."""
        x, y = self.integer("meshX"), self.integer("meshY")
        if x is None:
            x = self.count if y is None else self.count // y
        y = self.count // x if y is None else y
        if x * y != self.count:
            raise UserError(f"{self.at}: {self.count} instances do not form a mesh of {x} x {y}")
        return x, y


def read_architecture(text: str, where: str = dialect.ARCHITECTURE) -> TimeloopArchitecture:
    """Return what an architecture file says of an array, its register files and its buffer.

    Args:
        text: The YAML.
        where: Name of the file, for messages.
    Raises:
        UserError: If it is of another version or another machine than ours: DRAM, one
            buffer, perhaps a level that splits the fan-out into X and Y, and PEs with one
            register file or three.
    """
    if re.search(r"^\s*nodes:", text, flags=re.MULTILINE):
        raise UserError(
            f"{where}: has `nodes`, the form of Timeloop's Python front end; accepted are trees"
            f" of `subtree` and `local`, version {', '.join(dialect.VERSIONS)}"
        )
    data = parse_yaml(text, where)
    root = data.get("architecture", data.get("arch")) if isinstance(data, dict) else None
    if not isinstance(root, dict):
        raise UserError(f"{where}: has no architecture")
    version = dialect.check_version(str(root.get("version")), where)
    components, attributes = _walk(root, where)
    buffers = [c for c in components if any(name in c.kind for name in _BUFFERS)]
    macs = [c for c in components if c not in buffers]
    if len(macs) != 1 or not 3 <= len(buffers) <= 6:
        raise UserError(
            f"{where}: has {len(buffers)} buffers ({', '.join(c.name for c in buffers)}) and"
            f" {len(macs)} kinds of compute; modelled are DRAM, global buffer, perhaps a level"
            " that splits the fan-out, one register file or three, and one kind"
        )
    dram, buffer, *below = buffers
    dummy = below.pop(0) if len(below) in (2, 4) else None
    ours = dialect.MAPPING_LEVELS[len(below)]
    if dummy:
        ours = (*ours[:2], dialect.Y_LEVEL, *ours[2:])
    levels = {level: found.name for level, found in zip(ours, buffers, strict=True)}
    pe_x, pe_y = macs[0].sides
    _check_shape(dram, buffer, dummy, below, macs[0], where)
    dataflow = attributes.get("dataflow", "row_stationary" if dummy else None)
    if dataflow not in (None, *DATAFLOWS) or (dataflow == "row_stationary") != bool(dummy):
        raise UserError(f"{where}: dataflow is {dataflow!r}, which the levels are not of")
    return TimeloopArchitecture(
        version=version,
        levels=levels,
        pe_x=pe_x,
        pe_y=pe_y,
        rf_words=below[0].words,
        word_bits=buffer.word_bits,
        global_buffer_words=buffer.words,
        global_buffer_words_per_cycle=buffer.number("read_bandwidth"),
        dram_words_per_cycle=dram.number("shared_bandwidth"),
        dataflow=dataflow,
    )


def _walk(root: dict, where: str) -> tuple[list[_Component], dict[str, Json]]:
    """Return the components of the tree, outer to inner, and the attributes of its nodes."""
    components: list[_Component] = []
    attributes: dict[str, Json] = {}
    node, count = root, 1
    for _ in range(16):  # a tree of ours is three deep, one that holds itself has no end
        if "subtree" not in node:
            return components, attributes
        below = node["subtree"]
        if not isinstance(below, list) or len(below) != 1 or not isinstance(below[0], dict):
            raise UserError(f"{where}: a subtree is not a list of one node")
        node = below[0]
        count *= _name_and_count(node, where)[1]
        attributes |= _attributes(node, where)
        local = node.get("local") or []
        if not isinstance(local, list):
            raise UserError(f"{where}: local is {local!r}, not a list of components")
        for entry in local:
            if not isinstance(entry, dict):
                raise UserError(f"{where}: component {entry!r} is not an object")
            name, own = _name_and_count(entry, where)
            kind = str(entry.get("class"))
            if not any(word in kind for word in (*_BUFFERS, *_COMPUTE)):
                raise UserError(f"{where}: {name} is of class {kind!r}, which is not modelled")
            found = _attributes(entry, where)
            components.append(_Component(name, kind, count * own, found, f"{where}: {name}"))
    raise UserError(f"{where}: the tree is too deep")


def _name_and_count(entry: dict, where: str) -> tuple[str, int]:
    """Return name and instances of `PE[0..167]`."""
    name = entry.get("name")
    match = re.fullmatch(r"([\w-]+)(?:\[(\d+)\.\.(\d+)\])?", name) if type(name) is str else None
    if match is None:
        raise UserError(f"{where}: name {name!r} is not one such as PE[0..167]")
    first, last = int(match[2] or 0), int(match[3] or 0)
    if last < first:
        raise UserError(f"{where}: {name} has no instances")
    return match[1], last - first + 1


def _attributes(entry: dict, where: str) -> dict[str, Json]:
    """Return attributes with `-` and `_` taken for the same, as Timeloop does."""
    found = entry.get("attributes") or {}
    if not isinstance(found, dict):
        raise UserError(f"{where}: attributes of {entry.get('name')!r} are {found!r}")
    return {str(key).replace("-", "_"): value for key, value in found.items()}


def _check_shape(
    dram: _Component,
    buffer: _Component,
    dummy: _Component | None,
    files: list[_Component],
    mac: _Component,
    where: str,
) -> None:
    """Raise UserError unless the components are those of one of our machines."""
    is_one_of_each = (dram.count, buffer.count) == (1, 1) and "DRAM" not in buffer.kind
    if "DRAM" not in dram.kind or not is_one_of_each:
        raise UserError(f"{where}: modelled is one DRAM above one global buffer")
    pe_x, _ = mac.sides
    for file in files:
        if file.sides != mac.sides:
            raise UserError(f"{where}: {file.name} and {mac.name} are not side by side in each PE")
        if file.words != files[0].words:
            raise UserError(
                f"{where}: {file.name} has {file.words} words, {files[0].name} has"
                f" {files[0].words}; modelled are register files of one size"
            )
    if dummy and dummy.sides != (pe_x, 1):
        raise UserError(
            f"{where}: {dummy.name} is a mesh of {dummy.sides[0]} x {dummy.sides[1]}, which does"
            f" not split the array into X of {pe_x}, then Y"
        )
    for part in (dram, buffer, *files):
        for key, nothing in _NOT_MODELLED.items():
            if part.attributes.get(key, nothing) != nothing:
                raise UserError(f"{part.at}: {key} is not modelled")
        if part.word_bits != buffer.word_bits:
            raise UserError(
                f"{part.at} has words of {part.word_bits} bits, {buffer.name} of {buffer.word_bits}"
            )
        if part is not buffer and {"read_bandwidth", "write_bandwidth"} & set(part.attributes):
            raise UserError(
                f"{part.at}: read_bandwidth and write_bandwidth are modelled at {buffer.name};"
                f" {dram.name} may have a shared_bandwidth"
            )
        if part is not dram and "shared_bandwidth" in part.attributes:
            raise UserError(f"{part.at}: shared_bandwidth is modelled at {dram.name}")
    if buffer.number("read_bandwidth") != buffer.number("write_bandwidth"):
        raise UserError(f"{buffer.at}: read_bandwidth and write_bandwidth differ: not modelled")
