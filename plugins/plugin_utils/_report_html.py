# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report as one page of HTML that needs nothing else: no script, no request, no font."""

from __future__ import annotations

import datetime
import functools
import os
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2

from . import _report_words as words
from ._report import MEASURES

_TEMPLATE = os.path.join(os.path.dirname(__file__), "_report_page.html.j2")

# A plot's box, in pixels of its own; the page scales it to the width that there is.
_WIDTH, _HEIGHT = 360, 168
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 14, 16, 24
_TITLES = (("latency_ms_median", "Latency of an answer"), ("load_seconds_cold", "Time to load from disk"))
_LABELLED = 3  # outliers of a plot: names of more would cover each other


def make_page(report: Mapping[str, Any]) -> bytes:
    """Return the page, in UTF-8."""
    models = sorted({cell["model"] for row in report["hosts"] for cell in row["models"]})
    slow: dict[tuple[str, str], set[str]] = {}
    for outlier in report["outliers"]:
        slow.setdefault((outlier["host"], outlier["model"]), set()).add(outlier["measure"])
    plots = [
        (title, [plot for model in models for plot in _plot(report, model, measure)]) for measure, title in _TITLES
    ]
    page = _template().render(
        report=report,
        words=words,
        models=[_column(report, model) for model in models],
        rows=[_row(row, models, slow) for row in report["hosts"]],
        plots=[(title, group) for title, group in plots if group],
        changes=list(_changes(report)),
        numbers=list(_numbers(report)),
        duration=_duration(report),
    )
    return page.encode()


@functools.cache
def _template() -> jinja2.Template:
    with open(_TEMPLATE, encoding="utf-8") as stream:
        # Everything that a host or an inventory named is escaped.
        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        return environment.from_string(stream.read())


def _duration(report: Mapping[str, Any]) -> str | None:
    if report["finished"] is None:
        return None
    times = [datetime.datetime.fromisoformat(report[name]) for name in ("started", "finished")]
    seconds = max(0, round((times[1] - times[0]).total_seconds()))
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"


def _numbers(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rows = report["hosts"]
    cells = [cell for row in rows for cell in row["models"]]
    looked = sum(1 for row in rows if row["status"] in ("ok", "failed"))
    yield "hosts looked at", f"{looked} of {len(rows)}"
    tested = [cell["smoke"]["state"] for cell in cells if cell["smoke"]["state"] in ("pass", "fail")]
    yield "smoke tests passed", f"{tested.count('pass')} of {len(tested)}" if tested else "none known"
    whole = [cell["verified"] for cell in cells if cell["verified"]["state"] != "unknown"]
    ages = [state["age_seconds"] for state in whole if state["age_seconds"] is not None]
    if any(state["state"] == "damaged" for state in whole):
        oldest = f"{sum(1 for state in whole if state['state'] == 'damaged')} damaged"
    elif any(state["state"] == "never" for state in whole):
        oldest = "never, for some"
    else:
        oldest = words.age(max(ages)) if ages else "not known"
    yield "oldest verification", oldest
    yield "slower than most", words.count(len({outlier["host"] for outlier in report["outliers"]}), "host")


def _column(report: Mapping[str, Any], model: str) -> dict[str, Any]:
    cells = [cell for row in report["hosts"] for cell in row["models"] if cell["model"] == model]
    repositories = sorted({cell["repo_id"] for cell in cells if cell["repo_id"]})
    return {"name": model, "repo_id": ", ".join(repositories), "hosts": words.count(len(cells), "host")}


def _row(row: Mapping[str, Any], models: list[str], slow: Mapping[tuple[str, str], set[str]]) -> dict[str, Any]:
    cells = {cell["model"]: cell for cell in row["models"]}
    return {
        "host": row["host"],
        "status": row["status"],
        "generation": row["generation"] if row["served"] else None,
        "gpus": row["gpus"] and row["gpus"]["verdict"],
        "cells": [
            (model, _cell(cells[model], frozenset(slow.get((row["host"], model), ()))) if model in cells else None)
            for model in models
        ],
    }


# A mark and a word for each state: nothing is told by colour alone.
_MARKS = {"pass": ("ok", "✓"), "fail": ("bad", "✕")}


def _cell(cell: Mapping[str, Any], slow: frozenset[str]) -> dict[str, Any]:
    smoke, state = cell["smoke"]["state"], cell["verified"]["state"]
    kind, mark = _MARKS.get(smoke, ("soft", "-"))
    content = words.verified(cell["verified"])
    return {
        "kind": kind,
        "mark": mark,
        "smoke": {"unknown": "not tested", "untested": "not tested"}.get(smoke, words.SMOKE[smoke]),
        "commit": words.short(cell["commit"] or cell["planned_commit"]),
        "plan": cell["action"] if cell["action"] in ("added", "updated", "removed") else None,
        "content": {"never": "never verified", "unknown": None}.get(state, "just now" if content == "now" else content),
        "damaged": state == "damaged",
        "harm": state == "damaged" or smoke == "fail",
        "figures": [
            (words.quantity(measure, value), measure in slow)
            for measure in MEASURES
            if (value := words.first(cell, measure)) is not None
        ],
    }


def _changes(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[str, str], list[str]] = {}
    for change in report["changes"]:
        groups.setdefault((change["model"] or "", words.name_change(change)), []).append(change["host"])
    for (model, change), hosts in groups.items():
        yield {"model": model, "change": change, "hosts": hosts}


@dataclass(frozen=True)
class Point:
    """One host in a plot."""

    x: float
    y: float
    host: str
    text: str
    outlier: bool
    label: bool


def _plot(report: Mapping[str, Any], model: str, measure: str) -> Iterator[dict[str, Any]]:
    """Yield the plot of one measure of a model over the hosts, where there are at least two to compare."""
    found = [
        (row["host"], value)
        for row in report["hosts"]
        for cell in row["models"]
        if cell["model"] == model and (value := words.first(cell, measure)) is not None
    ]
    if len(found) < 2:
        return
    slow = {
        outlier["host"]: outlier["value"]
        for outlier in report["outliers"]
        if outlier["model"] == model and outlier["measure"] == measure
    }
    slow = {host: value for host, value in slow.items() if (host, value) in found}
    labelled = sorted(slow, key=lambda host: -slow[host])[:_LABELLED]
    top = _nice(max(value for _host, value in found))
    across, up = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def height(value: float) -> float:
        return round(_TOP + up * (1 - value / top), 1)

    unit = "ms" if measure.startswith("latency") else "s"
    median = statistics.median(value for _host, value in found)
    points = [
        Point(
            round(_LEFT + across * (place + 0.5) / len(found), 1),
            height(value),
            host,
            words.quantity(measure, value),
            host in slow,
            host in labelled,
        )
        for place, (host, value) in enumerate(found)
    ]
    values = [value for _host, value in found]
    least, most = words.quantity(measure, min(values)), words.quantity(measure, max(values))
    yield {
        "model": model,
        "summary": f"{words.count(len(found), 'host')}: {least} to {most}, median {words.quantity(measure, median)}",
        "median": height(median),
        "ticks": [(height(top * part), f"{top * part:g} {unit}") for part in (0.5, 1)],
        "points": points,
        "slow": [point for point in points if point.outlier],
        "radius": 3.5 if len(found) <= 40 else 2.5 if len(found) <= 200 else 1.5,
        "box": {
            "width": _WIDTH,
            "height": _HEIGHT,
            "left": _LEFT,
            "right": _WIDTH - _RIGHT,
            "bottom": _HEIGHT - _BOTTOM,
        },
    }


def _nice(value: float) -> float:
    """Return a round number that is not below ``value``."""
    if value <= 0:
        return 1
    size = 1.0
    while size * 10 <= value:
        size *= 10
    while size > value:
        size /= 10
    return next(size * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if size * step >= value)
