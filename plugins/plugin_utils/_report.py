# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report of a run: what each host holds, what failed, who is behind the others, and what changed.

It is the JSON document that docs/report.md describes; the table, JUnit and the page show it.
"""

from __future__ import annotations

import datetime
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ._plain import name_of
from ._report_failures import FailedTask, Failure, failures_of
from ._report_host import Generation, Held, Host

VERSION = 1

_FEWEST = 3  # hosts, to tell who is behind
_SPREAD = 3.5  # in standard deviations, estimated from the median of the distances to the median
_SHARE = 1.25  # of the median, at least: where all hosts are nearly alike, a little more is nothing
MEASURES = ("latency_ms_median", "load_seconds_cold")


@dataclass
class Run:
    """A run, and what was seen of each host. Times are UTC, ISO 8601.

    :ivar hosts: By name, in the order in which the play names them.
    :ivar failed: Names of the hosts on which a task failed, by the word of Ansible's own recap.
    :ivar unreachable: Names of those that could not be reached.
    :ivar finished: None as long as the run goes on, and for ever when it is interrupted.
    """

    playbook: str
    started: str
    check_mode: bool
    hosts: dict[str, Host] = field(default_factory=dict)
    tasks: dict[str, list[FailedTask]] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    unreachable: frozenset[str] = frozenset()
    finished: str | None = None


def utc_now() -> str:
    """Return the time, in UTC and ISO 8601, as the ledgers of the hosts have it."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def make_report(run: Run, previous: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the report of a run.

    :param previous: The report to compare with; None where there is none.
    """
    now = run.finished or run.started
    rows = [_row(run, name, host, now) for name, host in run.hosts.items()]
    names = {cell["model"] for row in rows for cell in row["models"]}
    failures = [
        failure for name, row in zip(run.hosts, rows) for failure in _failures(run.tasks.get(name, []), row, names)
    ]
    if run.finished is None:
        reason = "it goes on, was interrupted, or Ansible ended it with an error"
        failures.append(_failure(None, Failure("run", f"the run did not come to its end: {reason}")))
    elif not any(row["status"] != "not_looked_at" for row in rows):
        failures.append(_failure(None, Failure("run", "no host was looked at")))
    report = {
        "report_version": VERSION,
        "ok": not failures,
        "complete": run.finished is not None,
        "check_mode": run.check_mode,
        "playbook": name_of(run.playbook),
        "started": run.started,
        "finished": run.finished,
        "failures": failures,
        "hosts": rows,
        "outliers": list(_outliers(rows)),
        "previous": previous and {name: previous.get(name) for name in ("ok", "started", "finished")},
        "changes": [],
    }
    if previous and run.finished is not None:
        report["changes"] = list(find_changes(previous, report))
    return report


def _row(run: Run, name: str, host: Host, now: str) -> dict[str, Any]:
    tasks = run.tasks.get(name, [])
    status = "ok" if host.looked_at else "not_looked_at"
    if name in run.failed:
        status = "failed"
    if name in run.unreachable:
        status = "unreachable"
    shown = host.shown
    served = None
    if host.listed or host.current is not None:
        served = host.current is not None
    return {
        "host": name_of(name),
        "status": status,
        "msg": tasks[-1].msg if tasks and status in ("failed", "unreachable") else None,
        "generation": shown,
        "served": served,
        "models": list(_cells(host, shown, run.check_mode, now)),
        "gpus": host.gpus,
        "python": host.python,
    }


def _cells(host: Host, shown: int | None, check_mode: bool, now: str) -> Iterator[dict[str, Any]]:
    generation = host.generations.get(shown, Generation()) if shown is not None else Generation()
    # What a task only looked at is no part of what the run did.
    actions = {**host.actions, **host.plans} if check_mode else host.actions
    planned = [name for name, action in actions.items() if check_mode and action.action == "added"]
    for name in [*generation.models, *(name for name in planned if name not in generation.models)]:
        held = generation.models.get(name)
        action = actions.get(name)
        key = (shown or 0, name)
        yield {
            "model": name,
            "repo_id": held and held.repo_id,
            "commit": held and held.commit,
            "action": action and action.action,
            "planned_commit": action.commit if check_mode and action and action.action != "unchanged" else None,
            "verified": _verified(held, host.damaged.get(key, 0), host.repaired.get(key, 0), now),
            "smoke": _smoke(generation, name),
        }


def _verified(held: Held | None, damaged: int, repaired: int, now: str) -> dict[str, Any]:
    at = held.last_verified if held else None
    state = "verified" if at else "never" if held and held.told else "unknown"
    state = "damaged" if damaged else "repaired" if repaired else state
    return {
        "state": state,
        "at": at,
        "age_seconds": _seconds_between(at, now),
        "damaged_files": damaged,
        "repaired_files": repaired,
    }


def _smoke(generation: Generation, name: str) -> dict[str, Any]:
    runs = generation.smoke.get(name, [])
    state = "untested" if generation.smoke_told else "unknown"
    if runs:
        tested = [run for run in runs if run.skipped is None]
        state = "skipped" if not tested else "pass" if all(run.ok for run in tested) else "fail"
    return {"state": state, "at": generation.smoke_at if runs else None, "runs": [asdict(run) for run in runs]}


def _seconds_between(before: str | None, after: str) -> int | None:
    try:
        elapsed = datetime.datetime.fromisoformat(after) - datetime.datetime.fromisoformat(before or "")
        # The host's clock may be ahead.
        return max(0, round(elapsed.total_seconds()))
    except (ValueError, TypeError):
        return None


def _failure(host: str | None, failure: Failure, task: str | None = None) -> dict[str, Any]:
    return {"host": host, "task": task, **asdict(failure)}


def _failures(tasks: Sequence[FailedTask], row: Mapping[str, Any], names: Iterable[str]) -> Iterator[dict[str, Any]]:
    if row["status"] in ("failed", "unreachable"):
        found = failures_of(tasks)
        for task, failure in found:
            entry = _failure(row["host"], failure, task.task)
            if entry["model"] is None:
                entry["model"] = _model_in(failure.msg, names)
            yield entry
        if not found:
            yield _failure(row["host"], Failure(row["status"], "Ansible counts it so, and gave no reason"))
        return
    # A task whose failure was ignored leaves what it found.
    for cell in row["models"]:
        damaged = cell["verified"]["damaged_files"]
        if damaged:
            yield _failure(row["host"], Failure("content", f"{damaged} files are not as they must be", cell["model"]))
        if cell["smoke"]["state"] == "fail":
            yield _failure(row["host"], Failure("smoke", "its last smoke test was not passed", cell["model"]))
    if (row["gpus"] or {}).get("verdict") == "fail":
        yield _failure(row["host"], Failure("gpu", row["gpus"]["msg"] or "a GPU does not compute right"))


def _model_in(msg: str, names: Iterable[str]) -> str | None:
    """Return the model that a sentence of the engine is about: it says `NAME: …` or `FILE of NAME: …`."""
    found = [name for name in names if name and (msg.startswith(f"{name}: ") or f" of {name}: " in msg)]
    return max(found, key=len, default=None)


def _outliers(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Find the hosts that are slower than most with the same model, on the same device and in the same type."""
    groups: dict[tuple[Any, ...], list[tuple[str, float]]] = defaultdict(list)
    for row in rows:
        for cell in row["models"]:
            for run in cell["smoke"]["runs"]:
                kind = cell["model"], cell["commit"], run["engine"], run["device"], run["dtype"]
                for measure in MEASURES:
                    if run[measure] is not None:
                        key = (*kind, measure)
                        groups[key].append((row["host"], run[measure]))
    for (model, _commit, engine, device, _dtype, measure), values in groups.items():
        if len(values) < _FEWEST:
            continue
        median = statistics.median(value for _host, value in values)
        spread = 1.4826 * statistics.median(abs(value - median) for _host, value in values)
        most = max(median + _SPREAD * spread, _SHARE * median)
        for host, value in values:
            if value > most:
                about = {"host": host, "model": model, "engine": engine, "device": device, "measure": measure}
                yield {**about, "value": value, "median": median, "hosts": len(values)}


def find_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what is otherwise than in an earlier report, as far as both tell: each run may have had other hosts.

    Each has the ``host``, the ``model`` or None, ``what`` it is, and how it was ``before`` and is ``after``.
    """
    rows = {row["host"]: row for row in before["hosts"]}
    for row in after["hosts"]:
        old = rows.get(row["host"])
        if old is None:
            continue
        for model, what, was, now in _compare(old, row):
            if was != now and "unknown" not in (was, now):
                yield {"host": row["host"], "model": model, "what": what, "before": was, "after": now}


def _compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str | None, str, Any, Any]]:
    yield None, "status", _status(old), _status(new)
    yield None, "generation", _served(old), _served(new)
    cells = [{cell["model"]: cell for cell in row["models"]} for row in (old, new)]
    for model in [*cells[1], *(model for model in cells[0] if model not in cells[1])]:
        pair = [known.get(model) for known in cells]
        if None in pair:
            # A host that told of no model at all may have been stopped before.
            states = ["there" if cell else "gone" if known else "unknown" for cell, known in zip(pair, cells)]
            yield model, "model", *states
            continue
        for what in ("commit", "smoke", "content"):
            was, now = (_fact(cell, what) for cell in pair if cell)
            yield model, what, was, now


def _status(row: Mapping[str, Any]) -> str:
    return "unknown" if row["status"] == "not_looked_at" else str(row["status"])


def _served(row: Mapping[str, Any]) -> Any:
    return {True: row["generation"], False: "none", None: "unknown"}[row["served"]]


def _fact(cell: Mapping[str, Any], what: str) -> str:
    if what == "commit":
        return cell["commit"] or "unknown"
    state = str(cell["verified"]["state"] if what == "content" else cell["smoke"]["state"])
    return "verified" if state == "repaired" else state
