# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The words of a report, the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SMOKE = {"pass": "pass", "fail": "FAIL", "skipped": "skipped", "untested": "untested", "unknown": "-"}
STATUS = {"failed": "FAILED", "unreachable": "UNREACHABLE", "not_looked_at": "not looked at", "ok": "ok"}
MEASURE = {"latency_ms_median": "latency", "load_seconds_cold": "load time"}


def count(number: int, noun: str) -> str:
    """Return a number with its noun, as in `1 host` and `2 hosts`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def age(seconds: float | None) -> str:
    """Return how long ago something was."""
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (unit == "min" and seconds >= size):
            return f"{int(seconds // size)} {unit}"
    return "now"


def verified(state: Mapping[str, Any]) -> str:
    """Return what is known of a model's content: how long ago all of it was hashed, or what is wrong with it."""
    if state["state"] in ("damaged", "repaired"):
        return "DAMAGED" if state["state"] == "damaged" else "repaired"
    elapsed = age(state["age_seconds"])
    ago = elapsed if elapsed in ("now", "-") else f"{elapsed} ago"
    return {"never": "never", "unknown": "-"}.get(state["state"], ago)


def quantity(measure: str, value: float | None) -> str:
    """Return a measured value with its unit, three digits of it."""
    if value is None:
        return "-"
    unit = "ms" if measure.startswith("latency") else "s"
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def short(commit: str | None) -> str:
    """Return a commit as people write it."""
    return commit[:7] if commit else "-"


def first(cell: Mapping[str, Any], measure: str) -> float | None:
    """Return a measured value of the model itself: the runs of what was converted from it come after."""
    runs: Sequence[Mapping[str, Any]] = cell["smoke"]["runs"]
    value: float | None = runs[0][measure] if runs else None
    return value


def verdict(report: Mapping[str, Any]) -> str:
    """Return the verdict in one line."""
    rows = report["hosts"]
    looked = sum(1 for row in rows if row["status"] != "not_looked_at")
    mode = ", check mode: nothing was changed" if report["check_mode"] else ""
    if report["ok"]:
        some = "" if looked == len(rows) else f" of {len(rows)}"
        return f"OK: {looked}{some} {'host' if looked == 1 and not some else 'hosts'}, no failures{mode}"
    if not report["complete"]:
        return f"NOT OK: the run did not come to its end{mode}"
    bad = len({failure["host"] for failure in report["failures"] if failure["host"]})
    return f"NOT OK: {count(len(report['failures']), 'failure')} on {bad} of {count(len(rows), 'host')}{mode}"


def explain(failure: Mapping[str, Any]) -> str:
    """Return a failure's check with its sentence."""
    about = "" if failure["check"] in ("task", "run") else f"{failure['check']}: "
    return about + str(failure["msg"])


def name_outlier(outlier: Mapping[str, Any]) -> str:
    """Return how far a host is behind the others."""
    measure = outlier["measure"]
    value, median = (quantity(measure, outlier[name]) for name in ("value", "median"))
    return f"{MEASURE[measure]} {value}, the median of {outlier['hosts']} hosts is {median}"


def name_change(change: Mapping[str, Any]) -> str:
    """Return what changed."""
    what, before, after = change["what"], change["before"], change["after"]
    if what == "model":
        return "new" if before == "gone" else "gone"
    if what == "commit":
        before, after = short(before), short(after)
    return f"{what} {before} → {after}"
