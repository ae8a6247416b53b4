# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report as JUnit XML: hosts are test suites, and what was looked at of each model are test cases."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree


def make_junit(report: Mapping[str, Any]) -> bytes:
    """Return the document. Each of the report's failures is one failure or error in it, and there are no others."""
    root = ElementTree.Element("testsuites", name="gpufleet.models")
    of_host: dict[str | None, list[Mapping[str, Any]]] = {}
    for failure in report["failures"]:
        of_host.setdefault(failure["host"], []).append(failure)
    for row in report["hosts"]:
        _add_suite(root, row["host"], report, _cases(row, of_host.get(row["host"], [])))
    if None in of_host:
        _add_suite(root, "run", report, [_failed("run", failure) for failure in of_host[None]])
    _sum_up(root, root.iter("testsuite"))
    root.set("time", _duration(report))
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _add_suite(
    root: ElementTree.Element, name: str, report: Mapping[str, Any], cases: Sequence[ElementTree.Element]
) -> None:
    timestamp = str(report["started"])[:19]
    suite = ElementTree.SubElement(root, "testsuite", name=name, hostname=name, timestamp=timestamp, time="0")
    if report["check_mode"]:
        properties = ElementTree.SubElement(suite, "properties")
        ElementTree.SubElement(properties, "property", name="check_mode", value="true")
    suite.extend(cases)
    for kind, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(kind, str(sum(1 for _element in suite.iter(tag))))


def _sum_up(root: ElementTree.Element, suites: Iterator[ElementTree.Element]) -> None:
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in suites:
        for kind in totals:
            totals[kind] += int(suite.get(kind, "0"))
    for kind, total in totals.items():
        root.set(kind, str(total))


def _duration(report: Mapping[str, Any]) -> str:
    if report["finished"] is None:
        return "0"
    started, finished = (datetime.datetime.fromisoformat(report[name]) for name in ("started", "finished"))
    return f"{(finished - started).total_seconds():.0f}"


def _cases(row: Mapping[str, Any], failures: Sequence[Mapping[str, Any]]) -> list[ElementTree.Element]:
    host = row["host"]
    cases = [_failed(host, failure) for failure in failures]
    failed = {(failure["model"], failure["check"]) for failure in failures}
    for cell in row["models"]:
        # What failed before it was served is told above; here is what the host holds.
        for name, reason in _of_cell(cell):
            if (cell["model"], name) not in failed:
                cases.append(_case(host, cell["model"], name, reason))
    if row["gpus"] and row["gpus"]["verdict"] != "fail":
        cases.append(_case(host, None, "gpu", None if row["gpus"]["verdict"] == "pass" else row["gpus"]["msg"]))
    if not cases:
        cases.append(_case(host, None, "host", "not looked at" if row["status"] == "not_looked_at" else "no models"))
    return cases


def _of_cell(cell: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield the checks that a model passed, and with a reason those that were skipped."""
    state = cell["verified"]["state"]
    if state != "damaged":
        yield "content", None if state in ("verified", "repaired") else "when it was verified is not known"
    smoke = cell["smoke"]
    if smoke["state"] in ("untested", "unknown"):
        yield "smoke", "it was not tested"
    for place, run in enumerate(smoke["runs"]):
        prefix = "" if place == 0 else f"{run['engine']} "
        if run["skipped"] is not None:
            yield f"{prefix}smoke", run["skipped"]
        for check, passed in run["checks"].items():
            if passed:
                yield prefix + check, None


def _case(host: str, model: str | None, name: str, reason: str | None) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=f"{host}.{model}" if model else host, name=name, time="0")
    if reason is not None:
        ElementTree.SubElement(case, "skipped", message=reason)
    return case


def _failed(host: str, failure: Mapping[str, Any]) -> ElementTree.Element:
    case = _case(host, failure["model"], failure["check"], None)
    # What could not be looked at is an error, what is not as it must be a failure.
    kind = "error" if failure["check"] in ("unreachable", "run") else "failure"
    element = ElementTree.SubElement(case, kind, message=failure["msg"], type=failure["check"])
    details = [(name, failure[name]) for name in ("task", "expected", "found") if failure[name]]
    element.text = "\n".join([failure["msg"], *(f"{name}: {value}" for name, value in details)])
    return case
