# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The alerts and the dashboard of docs/monitoring: valid by Prometheus' own tools, and about metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.gpufleet.models.plugins.module_utils._manifest import Manifest
from ansible_collections.gpufleet.models.plugins.module_utils._metrics import Health, Run, render
from tests.integration.harness import CHECKOUT
from tests.integration.nights import promtool

MONITORING = CHECKOUT / "docs" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))

TEXT = render(Manifest(1, ()), [Health("m", "0" * 40, True, 1, 0)], Run(1, True, 1, 1))
SAMPLES = [line for line in TEXT.splitlines() if not line.startswith("#")]
METRICS = {re.split(r"[{ ]", line)[0] for line in SAMPLES}
LABELS = {label for line in SAMPLES for label in re.findall(r'(\w+)="', line)} | {"instance"}


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def expressions() -> Iterator[str]:
    """Yield what alerts and panels ask for."""
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]
    for panel in DASHBOARD["panels"]:
        yield from queries(panel)
    for variable in DASHBOARD["templating"]["list"]:
        yield variable.get("definition", "")


def test_only_metrics_and_labels_that_there_are() -> None:
    asked = {name for expression in expressions() for name in re.findall(r"\bgpufleet_\w+", expression)}
    assert asked == METRICS
    for expression in expressions():
        for matchers in re.findall(r"\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= LABELS
        for names in re.findall(r"(?:on|by) \(([^)]*)\)", expression):
            assert set(names.split(", ")) <= LABELS
    shown = "".join(map(str, expressions())) + (MONITORING / "dashboard.json").read_text(encoding="utf-8")
    assert set(re.findall(r"\{\{(\w+)\}\}", shown)) <= LABELS


def test_the_documentation_names_every_metric() -> None:
    text = (MONITORING / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(gpufleet_\w+)", text, re.MULTILINE)) == METRICS
    alerts = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert set(re.findall(r"^\| `(Gpufleet\w+)`", text, re.MULTILINE)) == {rule["alert"] for rule in alerts}


def test_the_alerts_are_valid_and_fire_when_they_must() -> None:
    checked = promtool("check", "rules", str(MONITORING / "alerts.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", "tests/integration/alerts_test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    cases = yaml.safe_load((CHECKOUT / "tests/integration/alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    fired = {
        rule["alertname"] for case in cases for rule in case.get("alert_rule_test", []) if len(rule["exp_alerts"]) > 0
    }
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert fired == {rule["alert"] for rule in rules}


def test_prometheus_understands_every_panel(tmp_path: Path) -> None:
    panels = DASHBOARD["panels"]
    rules = [
        {"record": f"panel:{number}_{index}", "expr": query.replace("$__range", "1h")}
        for number, panel in enumerate(panels)
        for index, query in enumerate(queries(panel))
    ]
    assert len(rules) > len(panels) > 5
    written = tmp_path / "rules.yml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    checked = promtool("check", "rules", str(written))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_dashboard_is_one_that_can_be_imported() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["title"]
        assert panel["description"]
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
