"""Energy and area of the components, as tables: value, unit and source in each row.

Between the sizes of a register-file row, values are interpolated linearly in the
number of words; outside them there is no value. A global buffer has a value only
at the sizes listed. Leakage is in no table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from dance_tf.errors import UserError

__all__ = ["TECHNOLOGIES", "Row", "SizedRow", "Technology", "technology"]

_ACCELERGY = "Accelergy 2020, 45 nm, Aladdin table"
_SMARTBUFFER = f"{_ACCELERGY}: storage and two address adders, maximum over actions"


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure."""

    value: float
    unit: str
    source: str


@dataclasses.dataclass(frozen=True)
class SizedRow:
    """One figure per size: words of a register file, KiB of a global buffer."""

    value: Mapping[int, float]
    unit: str
    source: str


@dataclasses.dataclass(frozen=True)
class Technology:
    """Figures of one technology; every energy is for one 16-bit word."""

    name: str
    mac_pj: Row
    mac_um2: Row
    rf_pj: SizedRow  # by words
    rf_um2: SizedRow
    global_buffer_read_pj: SizedRow  # by KiB
    global_buffer_write_pj: SizedRow
    global_buffer_um2: SizedRow
    dram_pj: Row
    wire_pj_per_bit_mm: Row
    pe_pitch_rf_um2: SizedRow  # register-file area from which the distance of PEs follows, by words

    def register_file_pj(self, words: Any) -> np.ndarray:
        """Return pJ per access of register files of `words` [...]."""
        return _interpolate(self.rf_pj, words, f"{self.name}: register file energy")

    def register_file_um2(self, words: Any) -> np.ndarray:
        """Return um2 of register files of `words` [...]."""
        return _interpolate(self.rf_um2, words, f"{self.name}: register file area")

    def pe_pitch_mm(self, words: Any) -> np.ndarray:
        """Return the distance of neighbouring PEs with register files of `words` [...]."""
        rf_um2 = _interpolate(self.pe_pitch_rf_um2, words, f"{self.name}: PE pitch")
        return np.sqrt((rf_um2 + self.mac_um2.value) * 1e-6)

    def global_buffer_pj(self, kib: int, accounting: str) -> tuple[float, float]:
        """Return pJ per word read and per word written of a global buffer of `kib`.

        Timeloop of 2020 charges the dearest action for every access, that of 2025
        each action its own.
        """
        self._check_global_buffer(kib)
        read, write = self.global_buffer_read_pj.value[kib], self.global_buffer_write_pj.value[kib]
        return (max(read, write),) * 2 if accounting == "timeloop_2020" else (read, write)

    def global_buffer_area_um2(self, kib: int) -> float:
        """Return um2 of a global buffer of `kib`."""
        self._check_global_buffer(kib)
        return self.global_buffer_um2.value[kib]

    def _check_global_buffer(self, kib: int) -> None:
        sizes = self.global_buffer_um2.value
        if kib not in sizes:
            listed = ", ".join(map(str, sizes))
            raise UserError(f"{self.name} has no global buffer of {kib} KiB; it has {listed}")


def _interpolate(row: SizedRow, words: Any, what: str) -> np.ndarray:
    sizes = np.asarray(list(row.value), np.float64)
    words = np.asarray(words, np.float64)
    if words.size and (words.min() < sizes[0] or words.max() > sizes[-1]):
        outside = words.min() if words.min() < sizes[0] else words.max()
        raise UserError(
            f"{what} is known for {sizes[0]:.0f} to {sizes[-1]:.0f} words, not for {outside:.0f}"
        )
    return np.asarray(np.interp(words, sizes, np.asarray(list(row.value.values()), np.float64)))


_RF_PJ = SizedRow(
    {
        1: 0.193,
        2: 0.195,
        4: 0.2,
        8: 0.215,
        12: 0.237,
        16: 0.251,
        24: 0.302,
        32: 0.338,
        48: 0.454,
        64: 0.541,
        96: 0.802,
        128: 1.005,
        192: 1.586,
        224: 1.818,
        256: 2.05,
        512: 4.371,
    },
    "pJ per access",
    _SMARTBUFFER,
)

_RF_UM2_2020 = SizedRow(
    {
        1: 274.68,
        2: 279.055,
        4: 292.18,
        8: 327.18,
        12: 379.68,
        16: 414.68,
        24: 537.18,
        32: 624.68,
        48: 904.68,
        64: 1114.68,
        96: 1744.68,
        128: 2234.68,
        192: 3634.68,
        224: 4194.68,
        256: 4754.68,
        512: 10354.68,
    },
    "um2",
    f"{_SMARTBUFFER}; its storage cells are not multiplied by the depth",
)

_FLIP_FLOP_UM2 = SizedRow(
    # Linear, so the two ends say it all.
    {1: 16 * 5.98 * 1 + 180.0, 512: 16 * 5.98 * 512 + 180.0},
    "um2",
    "16 flip-flops of 5.98 um2 per word and two address adders of 90 um2 (Aladdin table, 45 nm)",
)

_MAC_PJ = Row(2.2, "pJ per MAC", f"{_ACCELERGY}: 16-bit multiply and add, random operands")
_MAC_UM2 = Row(1239.5, "um2", f"{_ACCELERGY}: 16-bit multiply and add")
_DRAM_PJ = Row(512 / 4, "pJ per word", "Accelergy 2020, CACTI: LPDDR4, 512 pJ for 64 bit")

_BUFFER_2020 = "Accelergy 2020, CACTI and Aladdin: 64-bit SRAM, 32 banks, two read-write ports"
_BUFFER_CACTI = "CACTI 7 (2025 plug-in): 64-bit SRAM, one port"
_BUFFER_CACTI_PJ = SizedRow({128: 28.5989 / 4}, "pJ per word", f"{_BUFFER_CACTI}; dearest action")

#: The shipped technologies by name.
TECHNOLOGIES = {
    # For agreement with Timeloop + Accelergy as they were in 2020.
    "accelergy_2020_45nm": Technology(
        name="accelergy_2020_45nm",
        mac_pj=_MAC_PJ,
        mac_um2=_MAC_UM2,
        rf_pj=_RF_PJ,
        rf_um2=_RF_UM2_2020,
        global_buffer_read_pj=SizedRow(
            {32: 38.505 / 4, 64: 49.666 / 4, 128: 74.144 / 4, 256: 94.211 / 4, 512: 138.664 / 4},
            "pJ per word",
            _BUFFER_2020,
        ),
        global_buffer_write_pj=SizedRow(
            {32: 40.589 / 4, 64: 54.151 / 4, 128: 75.215 / 4, 256: 102.12 / 4, 512: 137.553 / 4},
            "pJ per word",
            _BUFFER_2020,
        ),
        global_buffer_um2=SizedRow(
            {32: 331492.0, 64: 578331.0, 128: 1162549.0, 256: 1910279.0, 512: 3637989.0},
            "um2",
            _BUFFER_2020,
        ),
        dram_pj=_DRAM_PJ,
        wire_pj_per_bit_mm=Row(0.0, "pJ per bit and mm", "Accelergy 2020 has no wires"),
        pe_pitch_rf_um2=_FLIP_FLOP_UM2,
    ),
    # The default: one-port buffer, area that grows with the depth, wires that cost.
    "cacti_45nm": Technology(
        name="cacti_45nm",
        mac_pj=_MAC_PJ,
        mac_um2=_MAC_UM2,
        rf_pj=_RF_PJ,
        rf_um2=_FLIP_FLOP_UM2,
        global_buffer_read_pj=_BUFFER_CACTI_PJ,
        global_buffer_write_pj=_BUFFER_CACTI_PJ,
        global_buffer_um2=SizedRow({128: 530829.0}, "um2", _BUFFER_CACTI),
        dram_pj=_DRAM_PJ,
        wire_pj_per_bit_mm=Row(
            0.3254, "pJ per bit and mm", "Accelergy 2025: 5.2064 pJ for 16 bits over 1 mm"
        ),
        pe_pitch_rf_um2=_FLIP_FLOP_UM2,
    ),
}


def technology(name: str) -> Technology:
    """Return the technology of that name.

    Raises:
        UserError: If there is none.
    """
    if name not in TECHNOLOGIES:
        raise UserError(f"unknown technology {name!r}; there are {', '.join(TECHNOLOGIES)}")
    return TECHNOLOGIES[name]
