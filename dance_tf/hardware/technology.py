"""Energy and area of the components, as tables: value, unit and source in each row.

A table is a JSON file. Those of `technologies/` are shipped and go by their name; a
user's own goes by its path, which ends in .json. `python -m tools.show_technology`
prints one to start from. A row has either one `value`, or `values`, pairs of a size
(words of a register file, KiB of a global buffer) and a figure, and says what holds
`between_sizes`: "linear" (in the size) or "none". Outside its sizes a row has no value.

Register file and DRAM have one row for an access, such as `rf_pj`, or `rf_read_pj` and
`rf_write_pj` in its place. A table of one's own with rows of reads and writes that differ
says under `charges` what an access costs: "own", a read as a read and a write as a write,
or "dearest", either as the dearer of both, as Timeloop of 2020 does.

Leakage is in no table.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import sys
from collections.abc import Collection, Sequence

import numpy as np

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError, did_you_mean
from dance_tf.files import Json, local_path, parse_json, read_text

__all__ = [
    "CHARGES",
    "Row",
    "SizedRow",
    "Technology",
    "format_technology",
    "shipped_technologies",
    "technology",
    "technology_of",
]

_SCHEMA_VERSION = 1

#: Memories that have rows of reads and of writes, and those that may have one for both.
_MEMORIES = ("rf", "global_buffer", "dram")
_ONE_ROW = ("rf", "dram")

#: Charges of an access, and the one of each accounting where the table names none.
CHARGES = ("own", "dearest")
_CHARGES_OF = {"timeloop_2020": "dearest", "timeloop_2025": "own"}

_FOLDER = pathlib.Path(__file__).with_name("technologies")


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure."""

    value: float
    unit: str
    source: str


@dataclasses.dataclass(frozen=True)
class SizedRow:
    """One figure per size."""

    values: tuple[tuple[int, float], ...]  # (size, figure), sizes increasing
    size: str  # what a size counts: "words" or "KiB"
    between_sizes: str  # "linear" or "none"
    unit: str
    source: str

    def at(self, sizes: np.ndarray | int, what: str) -> np.ndarray:
        """Return the figures at `sizes` [...]; `what` names the row in an error.

        Raises:
            UserError: If the row has no figure for a size.
        """
        listed, figures = np.asarray(self.values, np.float64).T
        sizes = np.asarray(sizes, np.float64)
        if self.between_sizes == "linear":
            is_known = (sizes >= listed[0]) & (sizes <= listed[-1])
            known = f"{listed[0]:.0f} to {listed[-1]:.0f}"
        else:
            is_known = np.isin(sizes, listed)
            known = ", ".join(f"{size:.0f}" for size in listed)
        if not is_known.all():
            unknown = sizes[~is_known].flat[0]
            raise UserError(f"{what} is known for {known} {self.size}, not for {unknown:.0f}")
        return np.asarray(np.interp(sizes, listed, figures))


@dataclasses.dataclass(frozen=True)
class Technology:
    """Figures of one technology; a word has `word_bits` bits."""

    name: str
    description: str
    word_bits: int
    mac_pj: Row
    mac_um2: Row
    rf_read_pj: SizedRow  # one word
    rf_write_pj: SizedRow
    rf_um2: SizedRow
    global_buffer_read_pj: SizedRow  # one word
    global_buffer_write_pj: SizedRow
    global_buffer_um2: SizedRow
    dram_read_pj: Row  # one word
    dram_write_pj: Row
    wire_pj_per_bit_mm: Row
    pe_pitch_rf_um2: SizedRow  # register-file area from which the distance of PEs follows
    charges: str | None = None  # one of CHARGES; None: what the accounting says

    def register_file_pj(
        self, words: np.ndarray | int, accounting: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return pJ per word read and per word written of register files of `words` [...]."""
        what = f"{self.name}: register file energy"
        read, write = (
            row.at(words, f"{what} {name}")
            for name, row in self._rows("rf")
            if isinstance(row, SizedRow)
        )
        if self._is_dearest(accounting):
            read = write = np.maximum(read, write)
        return read, write

    def register_file_um2(self, words: np.ndarray | int) -> np.ndarray:
        """Return um2 of register files of `words` [...]."""
        return self.rf_um2.at(words, f"{self.name}: register file area rf_um2")

    def pe_pitch_mm(self, words: np.ndarray | int) -> np.ndarray:
        """Return the distance of neighbouring PEs with register files of `words` [...]."""
        rf_um2 = self.pe_pitch_rf_um2.at(words, f"{self.name}: PE pitch pe_pitch_rf_um2")
        return np.sqrt((rf_um2 + self.mac_um2.value) * 1e-6)

    def global_buffer_pj(self, kib: int, accounting: str) -> tuple[float, float]:
        """Return pJ per word read and per word written of a global buffer of `kib`."""
        what = f"{self.name}: global buffer energy"
        read, write = (
            float(row.at(kib, f"{what} {name}"))
            for name, row in self._rows("global_buffer")
            if isinstance(row, SizedRow)
        )
        return self._charged(read, write, accounting)

    def dram_pj(self, accounting: str) -> tuple[float, float]:
        """Return pJ per word read from and per word written to DRAM."""
        return self._charged(self.dram_read_pj.value, self.dram_write_pj.value, accounting)

    def global_buffer_area_um2(self, kib: int) -> float:
        """Return um2 of a global buffer of `kib`."""
        what = f"{self.name}: global buffer area global_buffer_um2"
        return float(self.global_buffer_um2.at(kib, what))

    def different_rows(self) -> list[str]:
        """Return pairs of rows that do not say the same of reads and of writes."""
        pairs = [(m, self._rows(m)) for m in _MEMORIES]
        return [
            f"{memory}_read_pj and {memory}_write_pj"
            for memory, ((_, read), (_, write)) in pairs
            if _figures(read) != _figures(write)
        ]

    def notes(self, accounting: str) -> list[str]:
        """Return a line for each row without the effect that it seems to have."""
        found = []
        if self._is_dearest(accounting):
            why = f"accounting {accounting}" if self.charges is None else 'charges is "dearest"'
            found += [
                f"{self.name}: {rows} differ, and every access is charged the dearer ({why})"
                for rows in self.different_rows()
            ]
        has_pitch = _figures(self.pe_pitch_rf_um2) != _figures(self.rf_um2)
        if has_pitch and not self.wire_pj_per_bit_mm.value:
            found.append(f"{self.name}: pe_pitch_rf_um2 has no effect, as wires cost nothing")
        return found

    def to_json(self) -> dict[str, Json]:
        """Return what the file of the table says, without its version, as plain data."""
        entries = dataclasses.asdict(self)
        for memory in _ONE_ROW:
            names = (f"{memory}_read_pj", f"{memory}_write_pj")
            if entries[names[0]] == entries[names[1]]:
                del entries[names[1]]
                one = {names[0]: f"{memory}_pj"}
                entries = {one.get(key, key): value for key, value in entries.items()}
        if self.charges is None:
            del entries["charges"]
        return entries

    def _rows(self, memory: str) -> list[tuple[str, Row | SizedRow]]:
        """Return names and rows of a memory's reads and writes."""
        read, write = (getattr(self, f"{memory}_{action}_pj") for action in ("read", "write"))
        if memory in _ONE_ROW and read == write:
            return [(f"{memory}_pj", read)] * 2
        return [(f"{memory}_read_pj", read), (f"{memory}_write_pj", write)]

    def _is_dearest(self, accounting: str) -> bool:
        """Return whether each access is charged as the dearer of read and write.

        Timeloop of 2020 does, that of 2025 charges each action its own.
        """
        return (self.charges or _CHARGES_OF[accounting]) == "dearest"

    def _charged(self, read: float, write: float, accounting: str) -> tuple[float, float]:
        return (max(read, write),) * 2 if self._is_dearest(accounting) else (read, write)

    @property
    def sha256(self) -> str:
        """Hash of all that the table says, wherever its file lies."""
        return hashlib.sha256(format_technology(self).encode()).hexdigest()


def shipped_technologies() -> tuple[str, ...]:
    """Return the names of the shipped tables."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


def technology(name: str) -> Technology:
    """Return a shipped technology by its name, or that of a file by its path.

    A file is read anew at every call, so that a change of it is never missed.

    Args:
        name: One of `shipped_technologies()`, or a path that ends in .json.
    Raises:
        UserError: If there is none, or the file is not a table; names file and key.
    """
    if name.endswith(".json"):
        return _parse(read_text(local_path(name, "technology")), name)
    if name not in shipped_technologies():
        raise UserError(
            f"unknown technology {name!r}{did_you_mean(name, shipped_technologies())}"
            " (a table of your own is a path that ends in .json)"
        )
    path = _FOLDER / f"{name}.json"
    return _parse(read_text(path), str(path))


def technology_of(machine: MachineConfig) -> Technology:
    """Return the technology of a machine.

    Raises:
        UserError: If there is no such technology, or its file is not a table; if the table
            is for words of another width, whose energies and register-file sizes would all
            be those of other words; and if it is not a shipped one, does not say what an
            access is charged, and the accounting would leave rows of it without effect.
    """
    tech = technology(machine.technology)
    if tech.word_bits != machine.word_bits:
        raise UserError(
            f"hardware.machine.word_bits is {machine.word_bits}, but technology"
            f" {machine.technology} is for words of {tech.word_bits} bits:"
            f" set word_bits to {tech.word_bits}, or name another technology"
        )
    is_silent = tech.charges is None and _CHARGES_OF[machine.accounting] == "dearest"
    if is_silent and tech.different_rows() and tech not in map(technology, shipped_technologies()):
        raise UserError(
            f"{machine.technology}: {tech.different_rows()[0]} differ: add"
            ' "charges": "own" to charge each access its own, or "charges": "dearest" to charge'
            f" it the dearer of both, as accounting {machine.accounting} does"
        )
    return tech


def format_technology(tech: Technology) -> str:
    """Return the text of the JSON file of a technology; `technology` reads it back."""
    entries = {"schema_version": _SCHEMA_VERSION, **tech.to_json()}
    return "{\n" + ",\n".join(_entry(key, value, "  ") for key, value in entries.items()) + "\n}\n"


def _entry(key: str, value: Json, indent: str) -> str:
    """Return one key: a row has a line for each of its parts, however many its sizes are."""
    if isinstance(value, dict):
        parts = ",\n".join(_entry(name, part, indent + "  ") for name, part in value.items())
        return f"{indent}{json.dumps(key)}: {{\n{parts}\n{indent}}}"
    return f"{indent}{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"


# Reading

#: The unit that a row has to be in.
_UNITS = {
    "mac_pj": "pJ per MAC",
    "mac_um2": "um2",
    "rf_pj": "pJ per access",
    "rf_read_pj": "pJ per access",
    "rf_write_pj": "pJ per access",
    "rf_um2": "um2",
    "global_buffer_read_pj": "pJ per word",
    "global_buffer_write_pj": "pJ per word",
    "global_buffer_um2": "um2",
    "dram_pj": "pJ per word",
    "dram_read_pj": "pJ per word",
    "dram_write_pj": "pJ per word",
    "wire_pj_per_bit_mm": "pJ per bit and mm",
    "pe_pitch_rf_um2": "um2",
}

#: Unit of the sizes of each row that has sizes.
_SIZES = {
    "rf_pj": "words",
    "rf_read_pj": "words",
    "rf_write_pj": "words",
    "rf_um2": "words",
    "global_buffer_read_pj": "KiB",
    "global_buffer_write_pj": "KiB",
    "global_buffer_um2": "KiB",
    "pe_pitch_rf_um2": "words",
}


@functools.lru_cache(maxsize=32)
def _parse(text: str, where: str) -> Technology:
    """Return the table in the text of a file; `where` names it."""
    data = parse_json(text, where)
    # The distance of PEs follows from the register file's own area unless a row says another.
    optional = {"description": "", "pe_pitch_rf_um2": None, "charges": None}
    names = ["schema_version", *(field.name for field in dataclasses.fields(Technology))]
    _check_keys(_with_two_rows(data, where), names, optional, where, "the file")
    if data["schema_version"] != _SCHEMA_VERSION:
        raise UserError(
            f"{where}: schema_version is {data['schema_version']!r}, this reads {_SCHEMA_VERSION}"
        )
    values: dict[str, Json] = optional | data
    del values["schema_version"]
    if values["charges"] not in (None, *CHARGES):
        raise UserError(
            f"{where}: charges is {values['charges']!r}, not {' or '.join(map(repr, CHARGES))}"
        )
    for key in ("name", "description"):
        _check_text(values[key], where, key, can_be_empty=key == "description")
    word_bits = values["word_bits"]
    if type(word_bits) is not int or word_bits < 1:
        raise UserError(f"{where}: word_bits is {word_bits!r}, not a positive integer")
    for key, unit in _UNITS.items():
        if values.get(key) is not None:
            values[key] = _row(values[key], where, key, unit)
    values = _with_two_rows(values, where)
    values["pe_pitch_rf_um2"] = values["pe_pitch_rf_um2"] or values["rf_um2"]
    return Technology(**values)


def _with_two_rows(data: Json, where: str) -> Json:
    """Return the data with rows of reads and of writes, in place of one row for both."""
    if not isinstance(data, dict):
        return data
    data = dict(data)
    for memory in _ONE_ROW:
        one, *two = (f"{memory}{action}_pj" for action in ("", "_read", "_write"))
        if one not in data:
            if not any(name in data for name in two):
                raise UserError(f"{where}: {one} is missing")
            continue
        for name in two:
            if name in data:
                raise UserError(
                    f"{where}: {one} and {name} are both given: give {one}, or {' and '.join(two)}"
                )
            data[name] = data[one]
        del data[one]
    return data


def _figures(row: Row | SizedRow) -> Row | SizedRow:
    """Return what a row says, whatever its source."""
    return dataclasses.replace(row, source="")


def _row(data: Json, where: str, key: str, unit: str) -> Row | SizedRow:
    cls = SizedRow if key in _SIZES else Row
    _check_keys(data, [field.name for field in dataclasses.fields(cls)], (), where, key)
    _check_text(data["source"], where, f"{key}.source")
    if data["unit"] != unit:
        raise UserError(f"{where}: {key}.unit is {data['unit']!r}, not {unit!r}")
    if cls is Row:
        # Wires cost nothing where a technology has no figure for them.
        is_free = key == "wire_pj_per_bit_mm"
        return Row(**data | {"value": _figure(data["value"], where, f"{key}.value", is_free)})
    if data["size"] != _SIZES[key]:
        raise UserError(f"{where}: {key}.size is {data['size']!r}, not {_SIZES[key]!r}")
    if data["between_sizes"] not in ("linear", "none"):
        raise UserError(
            f"{where}: {key}.between_sizes is {data['between_sizes']!r}, not 'linear' or 'none'"
        )
    pairs = data["values"]
    if not isinstance(pairs, list) or not pairs:
        raise UserError(f"{where}: {key}.values is {pairs!r}, not a list of [size, figure]")
    values: list[tuple[int, float]] = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(f"{where}: {key}.values has {pair!r}, not [size, figure]")
        size, figure = pair
        if type(size) is not int or size < 1:
            raise UserError(f"{where}: {key}.values has size {size!r}, not a positive integer")
        if values and size <= values[-1][0]:
            raise UserError(
                f"{where}: {key}.values has size {size} after {values[-1][0]}; sizes increase"
            )
        values.append((size, _figure(figure, where, f"{key}.values at {size}")))
    return SizedRow(**data | {"values": tuple(values)})


def _figure(value: Json, where: str, what: str, is_zero_allowed: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: {what} is {value!r}, not a number")
    # An integer of hundreds of digits is less than infinity, yet no float.
    if not (0 < value <= sys.float_info.max or (value == 0 and is_zero_allowed)):
        raise UserError(f"{where}: {what} is {value}, not positive and finite")
    return float(value)


def _check_text(value: Json, where: str, what: str, *, can_be_empty: bool = False) -> None:
    if not isinstance(value, str) or not (value.strip() or can_be_empty):
        raise UserError(f"{where}: {what} is {value!r}, not a text")


def _check_keys(
    data: Json, names: Sequence[str], optional: Collection[str], where: str, what: str
) -> None:
    if not isinstance(data, dict):
        raise UserError(f"{where}: {what} is {data!r}, not an object with {', '.join(names)}")
    inside = "" if what == "the file" else f"{what}."
    for key in data:
        if key not in names:
            raise UserError(f"{where}: unknown key {inside + key!r}{did_you_mean(key, names)}")
    for name in names:
        if name not in data and name not in optional:
            raise UserError(f"{where}: {inside + name} is missing")
