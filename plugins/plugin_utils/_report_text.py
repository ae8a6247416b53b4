# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report as text for a terminal: hosts and models, then what is not as it must be."""

from __future__ import annotations

import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ._report_words import (
    SMOKE,
    STATUS,
    explain,
    first,
    name_outlier,
    quantity,
    short,
    verdict,
    verified,
)

_DETAILED = 60  # lines: with more, the hosts are summed up by model
_LISTED = 20  # failures, and outliers
_SENTENCE = 400  # characters
_LATENCY, _LOAD = "latency_ms_median", "load_seconds_cold"
_NARROWEST = 8


def make_table(report: Mapping[str, Any], columns: int) -> str:
    """Return the report in lines of at most ``columns`` characters, which are 60 or more."""
    lines = [f"FLEET REPORT  {verdict(report)}", ""]
    detailed = list(_detailed(report["hosts"]))
    if len(detailed) <= _DETAILED:
        lines += _align(detailed, columns)
    else:
        lines += _align(list(_summed_up(report["hosts"])), columns)
        lines.append("Of each model: the oldest verification, the median latency and load time.")
    lines += _listing("FAILURES", [(*_where(failure), explain(failure)) for failure in report["failures"]], columns)
    return "\n".join([*lines, *_listing("SLOWER THAN MOST", list(_slow(report["outliers"])), columns)])


def _detailed(rows: Sequence[Mapping[str, Any]]) -> Iterable[list[str]]:
    yield ["host", "model", "commit", "verified", "smoke", "latency", "load"]
    for row in rows:
        name, status = row["host"], STATUS[row["status"]]
        if not row["models"]:
            yield [name, status if row["status"] != "ok" else "no models"]
        for cell in row["models"]:
            model = cell["model"]
            if cell["planned_commit"] or cell["action"] in ("added", "removed", "updated"):
                model += f" ({cell['action']})"
            yield [
                name,
                model,
                short(cell["commit"] or cell["planned_commit"]),
                verified(cell["verified"]),
                SMOKE[cell["smoke"]["state"]],
                quantity(_LATENCY, first(cell, _LATENCY)),
                quantity(_LOAD, first(cell, _LOAD)),
            ]
            name = ""
        if row["models"] and row["status"] != "ok":
            yield ["", status]


def _summed_up(rows: Sequence[Mapping[str, Any]]) -> Iterable[list[str]]:
    yield ["model", "hosts", "commit", "verified", "smoke", "latency", "load"]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        for cell in row["models"]:
            groups.setdefault((cell["model"], short(cell["commit"] or cell["planned_commit"])), []).append(cell)
    for (model, commit), cells in sorted(groups.items()):
        smoke = Counter(SMOKE[cell["smoke"]["state"]] for cell in cells)
        yield [
            model,
            str(len(cells)),
            commit,
            _oldest(cells),
            ", ".join(f"{number} {word}" for word, number in smoke.most_common()) if set(smoke) != {"-"} else "-",
            _median(cells, _LATENCY),
            _median(cells, _LOAD),
        ]
    states = Counter(STATUS[row["status"]] for row in rows)
    yield [", ".join(f"{number} {word}" for word, number in states.most_common())]


def _oldest(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the worst that is known of the content on many hosts."""
    states = Counter(verified(cell["verified"]) for cell in cells)
    for word in ("DAMAGED", "never"):
        if states[word]:
            return f"{states[word]} {word}"
    return verified(max((cell["verified"] for cell in cells), key=lambda state: state["age_seconds"] or 0))


def _median(cells: Sequence[Mapping[str, Any]], measure: str) -> str:
    values = [value for cell in cells if (value := first(cell, measure)) is not None]
    return quantity(measure, statistics.median(values)) if values else "-"


def _align(rows: Sequence[Sequence[str]], columns: int) -> list[str]:
    """Put a table's cells below each other. Its first two columns, which are names, give way where it is too wide."""
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(len(row[index]) for row in full) for index in range(len(rows[0]))]
    # A host without models has a word instead of all the rest.
    widths[0] = max([widths[0], *(len(row[0]) for row in rows if len(row) == 2)])
    while sum(widths) + 2 * (len(widths) - 1) > columns:
        widest = max((0, 1), key=lambda index: widths[index])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    lines = []
    for row in rows:
        cells = [_shorten(text, width) if index < 2 else text for index, (text, width) in enumerate(zip(row, widths))]
        if len(row) < len(widths):
            cells[-1] = _shorten(row[-1], columns - sum(widths[: len(row) - 1]))
        # What is measured ends where the unit is.
        lines.append(
            "  ".join(
                f"{cell:>{width}}" if index >= len(widths) - 2 else f"{cell:<{width}}"
                for index, (cell, width) in enumerate(zip(cells, widths))
            ).rstrip()
        )
    return lines


def _shorten(text: str, width: int) -> str:
    """Leave the middle out: hosts differ at both ends of their names."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def _slow(outliers: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, str, str]]:
    """Yield one sentence for each slow host, about what it is slowest in."""
    hosts: dict[str, list[Mapping[str, Any]]] = {}
    for outlier in outliers:
        hosts.setdefault(outlier["host"], []).append(outlier)
    for host, found in hosts.items():
        worst = max(found, key=lambda outlier: outlier["value"] / outlier["median"])
        more = f", and slow in {len(found) - 1} more figures" if len(found) > 1 else ""
        yield host, worst["model"], name_outlier(worst) + more


def _where(entry: Mapping[str, Any]) -> tuple[str, str]:
    return entry["host"] or "", entry["model"] or ""


def _listing(title: str, entries: Sequence[tuple[str, str, str]], columns: int) -> list[str]:
    if not entries:
        return []
    lines = ["", title]
    for host, model, sentence in entries[:_LISTED]:
        if len(sentence) > _SENTENCE:
            sentence = f"{sentence[: _SENTENCE - 1]}…"
        text = ": ".join(part for part in (" ".join(part for part in (host, model) if part), sentence) if part)
        lines += textwrap.wrap(text, columns, subsequent_indent="  ", break_on_hyphens=False)
    if len(entries) > _LISTED:
        lines.append(f"and {len(entries) - _LISTED} more, which the report's files have")
    return lines
