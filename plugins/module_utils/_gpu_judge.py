# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a GPU did against what it must do. Nothing is run here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ._gpu_datasheet import datasheet_of
from ._smoke_judge import Check

# Reasons for lower clocks that are the fault of cooling or power supply. A power limit that is reached is none.
_SLOWDOWNS = ("hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown")

_WORD_BYTES = 8

Facts = Mapping[str, Any]


def judge_steps(name: str, steps: Mapping[str, Any], before: Facts) -> Iterator[Check]:
    """Yield the checks of what a GPU, or a MIG device, was made to do.

    :param name: Its name.
    :param steps: What was measured, by the names of the steps that came to an end.
    :param before: The GPU as the facts of a host have it, from before the work.
    """
    if "sustained product" in steps:
        yield from _sustained(name, steps["sustained product"], before["processes"] or ())
    for dtype, product in steps.get("products", {}).items():
        yield Check(
            f"product {dtype}", not product["wrong"], "the whole numbers of integer arithmetic", _numbers(product)
        )
    if "memory" in steps:
        expected = f"what was written to {steps['memory']['mib']} MiB"
        for pattern, differences in steps["memory"]["patterns"].items():
            yield Check(f"memory {pattern}", not differences["wrong"], expected, _words(differences))
    if "copies" in steps:
        yield Check("copies", not steps["copies"]["wrong"], "what was sent", _words(steps["copies"]))


def judge_pair(pair: Mapping[str, Any]) -> Check:
    """Return the check of a copy from one GPU to another."""
    return Check("peer copy", not pair["wrong"], "what was sent", _words(pair))


def judge_device(before: Facts, during: Iterable[Facts], after: Facts | None) -> Iterator[Check]:
    """Yield the checks of what the driver tells of a GPU.

    :param before: The GPU as the facts of a host have it, from before the work.
    :param during: The same, from time to time.
    :param after: The same, from after the work; None when NVML gives no answer any more.
    """
    state = "no answer of the driver" if after is None else after["state"]
    yield Check("state", state == "ok", "ok", state)
    if after is not None and state == "ok":
        yield from _memory_errors(before, after)
    yield _slowdown([before, *during, *([after] if after else [])])


def added_errors(before: Facts, after: Facts, kind: str) -> int | None:
    """Return how many memory errors of a kind came in between; None where they are not counted.

    :param kind: ``corrected`` or ``uncorrected``.
    """
    added = []
    for counter in (f"volatile_{kind}", f"aggregate_{kind}"):
        counts = [facts["ecc"][counter] for facts in (before, after) if facts["ecc"]]
        if len(counts) == 2 and None not in counts:
            first, last = counts
            added.append(last - first if last >= first else last)  # volatile ones begin anew with the driver
    return max(added, default=None)


def _words(differences: Mapping[str, Any]) -> str:
    if not differences["wrong"]:
        return "the same"
    where = differences["at"] * _WORD_BYTES
    expected, found = (f"0x{differences[key] & (1 << 64) - 1:016x}" for key in ("expected", "found"))
    return f"{_count(differences, 'words')}; at byte {where} {found} instead of {expected}"


def _numbers(product: Mapping[str, Any]) -> str:
    if not product["wrong"]:
        return "the same"
    row, column = divmod(product["at"], product["columns"])
    found, expected = product["found"], product["expected"]
    return f"{_count(product, 'elements')}; at row {row}, column {column} {found:g} instead of {expected:g}"


def _count(differences: Mapping[str, Any], what: str) -> str:
    return f"{differences['wrong']} {what} that differ"


def _sustained(name: str, measured: Mapping[str, Any], users: Iterable[Mapping[str, Any]]) -> Iterator[Check]:
    wrong, products = measured["wrong"], measured["products"]
    found = f"{wrong} of {products} that differ" if wrong else "the same"
    yield Check("sustained product", not wrong, f"{products} times the same", found)
    datasheet = datasheet_of(name)
    if datasheet is not None:
        expected = (
            f"at least {datasheet.least:.0f} TFLOP/s in {measured['dtype']}, of {datasheet.tflops:g} by its datasheet"
        )
        last = measured["last"]
        found = f"{last:.1f} TFLOP/s, {measured['first']:.1f} in the first second"
        others = [f"{user['name'] or 'a process'} ({user['pid']})" for user in users]
        found += f", on a GPU that {', '.join(others)} had in use" if others else ""
        yield Check("speed", last >= datasheet.least, expected, found)


def _memory_errors(before: Facts, after: Facts) -> Iterator[Check]:
    added = added_errors(before, after, "uncorrected")
    if added is not None:
        yield Check("uncorrected memory errors", not added, "none", str(added or "none"))
    rows = after["remapped_rows"]
    if rows is not None:
        remapped = rows["uncorrected"] - (before["remapped_rows"] or rows)["uncorrected"]
        found = "one that failed; exchange the GPU" if rows["failed"] else f"{remapped or 'none'}"
        yield Check("remapped rows", not rows["failed"] and remapped <= 0, "none for uncorrected errors", found)
    pages = after["retired_pages"]
    if pages is not None:
        retired = pages["double_bit"] - (before["retired_pages"] or pages)["double_bit"]
        yield Check("retired pages", retired <= 0, "none for double-bit errors", str(retired or "none"))


def _slowdown(seen: Sequence[Facts]) -> Check:
    reasons = {reason for facts in seen for reason in facts["throttle_reasons"] or ()}
    found = [reason for reason in _SLOWDOWNS if reason in reasons]
    hottest = max(
        (facts["temperature_celsius"] for facts in seen if facts["temperature_celsius"] is not None), default=None
    )
    words = ", ".join(found) or "none"
    if found and hottest is not None:
        words += f", at up to {hottest} degrees Celsius"
    return Check("slowdown", not found, "none for heat or power supply", words)
