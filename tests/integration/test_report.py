# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The callback fleet_report, as a user enables it: what it prints and writes of real runs, the bad ones too."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from junitparser import Error, Failure, JUnitXml

from tests.hub import Hub
from tests.hub.faults import Flip
from tests.integration.fleet import Fleet
from tests.integration.harness import CHECKOUT, TOKEN, Host, environment, flip, wait_until

SCHEMA = json.loads((CHECKOUT / "docs/report.schema.json").read_text(encoding="utf-8"))


class Reporting:
    """A fleet of two hosts, and where the reports of its runs are."""

    def __init__(self, fleet: Fleet, directory: Path) -> None:
        self.fleet = fleet
        self.directory = directory
        self.json, self.junit, self.html = (directory / f"fleet.{kind}" for kind in ("json", "xml", "html"))
        self.environ = {
            "ANSIBLE_CALLBACKS_ENABLED": "gpufleet.models.fleet_report",
            "FLEET_REPORT_JSON": str(self.json),
            "FLEET_REPORT_JUNIT": str(self.junit),
            "FLEET_REPORT_HTML": str(self.html),
        }
        self.stores = {name: directory.parent / name for name in ("gpu-1", "gpu-2")}
        fleet.hosts = {
            name: {"model_store_root": str(path), "model_store_link": ""} for name, path in self.stores.items()
        }

    def play(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.fleet.play(name, *arguments, **self.environ)

    def run(self, *tasks: dict[str, Any], **keywords: Any) -> subprocess.CompletedProcess[str]:
        """Run tasks in a play of somebody's own."""
        playbook = self.fleet.home / "own.yml"
        play = {"hosts": "all", "gather_facts": False, "tasks": list(tasks), **keywords}
        playbook.write_text(yaml.safe_dump([play]), encoding="utf-8")
        return self.fleet.play(str(playbook), **self.environ)

    def report(self) -> dict[str, Any]:
        """Return the report, after all its files were found to say the same."""
        report: dict[str, Any] = json.loads(self.json.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(SCHEMA).validate(report)
        assert report["ok"] == (not report["failures"])
        cases = [case for suite in JUnitXml.fromfile(str(self.junit)) for case in suite]
        failed = [result for case in cases for result in case.result if isinstance(result, (Failure, Error))]
        assert sorted(str(result.message) for result in failed) == sorted(entry["msg"] for entry in report["failures"])
        page = self.html.read_text(encoding="utf-8")
        assert f"<title>{'OK' if report['ok'] else 'NOT OK'}: fleet report</title>" in page
        return report


@pytest.fixture
def reporting(hub: Hub, tmp_path: Path) -> Reporting:
    return Reporting(Fleet(hub, tmp_path), tmp_path / "reports")


@pytest.fixture
def deployed(reporting: Reporting, tiny: dict[str, Any], big: dict[str, Any]) -> Reporting:
    """A fleet that serves both models, and has a report of that."""
    for path in reporting.stores.values():
        host = Host(reporting.fleet.hub, path.with_suffix(".home"))
        host.ok(host.generation(tiny, big, root=str(path)))
    assert reporting.run(INFO).returncode == 0
    assert reporting.report()["ok"]
    return reporting


def table(process: subprocess.CompletedProcess[str]) -> str:
    """Return what is printed after the recap."""
    return process.stdout.partition("FLEET REPORT")[2]


def cells(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["host"], cell["model"]): cell for row in report["hosts"] for cell in row["models"]}


INFO = {"name": "Look", "gpufleet.models.model_store_info": {"root": "{{ model_store_root }}"}}
VERIFY = {"name": "Verify", "gpufleet.models.model_verify": {"root": "{{ model_store_root }}"}}
MISSING = {"name": "Serve what is not there", "gpufleet.models.model_generation": {"root": "/missing", "generation": 7}}


def test_a_deployment_and_what_follows(reporting: Reporting) -> None:
    process = reporting.play("lock")
    assert process.returncode == 0
    assert "FLEET REPORT" not in process.stdout
    assert not reporting.directory.exists()

    process = reporting.play("site", "--check")
    report = reporting.report()
    assert report["ok"]
    assert report["check_mode"]
    assert "check mode: nothing was changed" in table(process)
    cell = cells(report)["gpu-1", "tiny"]
    assert (cell["action"], cell["commit"]) == ("added", None)
    lock = json.loads(reporting.fleet.lock_file.read_text(encoding="utf-8"))
    commits = {model["name"]: model["commit"] for model in lock["models"]}
    assert cell["planned_commit"] == commits["tiny"]

    process = reporting.play("site")
    assert process.returncode == 0
    assert "WARNING" not in process.stderr
    report = reporting.report()
    assert report["ok"]
    assert report["complete"]
    assert not report["check_mode"]
    assert set(cells(report)) == {(host, model) for host in reporting.stores for model in commits}
    for (_host, model), cell in cells(report).items():
        assert cell["commit"] == commits[model]
        assert cell["action"] == "added"
        assert cell["verified"]["state"] == "verified"
        assert commits[model][:7] in table(process)
    assert [(row["generation"], row["served"], row["status"]) for row in report["hosts"]] == [(1, True, "ok")] * 2
    assert {"generation": "none"} in [{change["what"]: change["before"]} for change in report["changes"]]

    # All lines fit into a terminal of 80 columns.
    assert max(map(len, table(process).splitlines())) < 80

    reporting.play("site")
    report = reporting.report()
    assert report["ok"]
    assert report["changes"] == []
    assert {cell["action"] for cell in cells(report).values()} == {"unchanged"}
    assert {cell["smoke"]["state"] for cell in cells(report).values()} == {"untested"}

    reporting.play("verify")
    report = reporting.report()
    assert report["ok"]
    assert {cell["verified"]["state"] for cell in cells(report).values()} == {"verified"}
    assert {key: cell["commit"] for key, cell in cells(report).items()} == {
        (host, model): commit for host in reporting.stores for model, commit in commits.items()
    }


def test_damage_is_found_told_and_repaired(deployed: Reporting) -> None:
    flip(deployed.stores["gpu-2"] / "current" / "big" / "weights.safetensors", 17 * 2**20)
    process = deployed.play("verify")
    assert process.returncode == 2
    report = deployed.report()
    (failure,) = report["failures"]
    assert (failure["host"], failure["model"], failure["check"]) == ("gpu-2", "big", "content")
    assert failure["msg"].startswith("weights.safetensors: ")
    assert failure["expected"].startswith("SHA-256 ")
    assert [row["status"] for row in report["hosts"]] == ["ok", "failed"]
    change = {"host": "gpu-2", "model": "big", "what": "content", "before": "verified", "after": "damaged"}
    assert change in report["changes"]
    assert "DAMAGED" in table(process)
    assert "gpu-2 big: content: weights.safetensors: " in " ".join(table(process).split())

    deployed.play("verify", "-e", "model_store_verify_repair=true")
    report = deployed.report()
    assert report["ok"]
    assert cells(report)["gpu-2", "big"]["verified"]["state"] == "repaired"


def test_a_rescue_that_fails_tells_the_real_reason_once(deployed: Reporting) -> None:
    newer = deployed.fleet.home / "newer"
    newer.mkdir()
    (newer / "config.json").write_text('{"model_type": "newer"}\n', encoding="utf-8")
    deployed.fleet.hub.repositories["acme/tiny"].add_commit(newer)
    deployed.play("lock")
    with deployed.fleet.hub.fault(Flip(3, path="*/config.json")):
        process = deployed.play("site", "--limit", "gpu-1")
    assert process.returncode == 2
    report = deployed.report()
    (failure,) = report["failures"]
    assert "config.json of tiny: expected SHA-256" in failure["msg"]
    assert (failure["model"], failure["check"]) == ("tiny", "generation")
    (row,) = report["hosts"]
    assert (row["status"], row["generation"], row["served"]) == ("failed", 1, True)
    assert "checked: generation 1 is whole and served as before" in row["msg"]


def test_what_ended_well_is_no_failure(deployed: Reporting) -> None:
    rescued = {"block": [MISSING], "rescue": [INFO]}
    process = deployed.run(rescued, {**MISSING, "ignore_errors": True}, INFO)
    assert process.returncode == 0
    assert process.stdout.count("rescued=1    ignored=1") == 2
    report = deployed.report()
    assert report["ok"], report["failures"]
    assert [row["status"] for row in report["hosts"]] == ["ok", "ok"]


def test_a_rescued_failure_is_not_taken_for_the_later_one(deployed: Reporting) -> None:
    fail = {"name": "Say no", "ansible.builtin.fail": {"msg": "the load balancer said no"}}
    deployed.run({"block": [MISSING], "rescue": [INFO]}, {**fail, "when": "inventory_hostname == 'gpu-2'"})
    report = deployed.report()
    assert [(entry["host"], entry["check"], entry["msg"]) for entry in report["failures"]] == [
        ("gpu-2", "task", "the load balancer said no")
    ]


def test_damage_whose_task_was_ignored_is_told_all_the_same(deployed: Reporting) -> None:
    flip(deployed.stores["gpu-1"] / "current" / "tiny" / "config.json", 3)
    process = deployed.run({**VERIFY, "ignore_errors": True})
    assert process.returncode == 0
    report = deployed.report()
    assert [(entry["host"], entry["model"], entry["check"]) for entry in report["failures"]] == [
        ("gpu-1", "tiny", "content")
    ]


@pytest.fixture
def upgraded(deployed: Reporting, tiny: dict[str, Any]) -> Reporting:
    """A fleet that serves generation 2, which has one of the models alone."""
    for path in deployed.stores.values():
        host = Host(deployed.fleet.hub, path.with_suffix(".upgrade"))
        host.ok(host.generation(tiny, root=str(path)))
    return deployed


def test_what_is_only_looked_at_is_not_taken_for_served(upgraded: Reporting) -> None:
    """All hosts look at the generation that they would go back to; one of them has none that is whole."""
    (upgraded.stores["gpu-2"] / "generations/1/big/config.json").unlink()
    process = upgraded.play("rollback")
    assert process.returncode == 2
    report = upgraded.report()
    assert [(row["generation"], row["served"], row["status"]) for row in report["hosts"]] == [(2, True, "failed")] * 2
    assert {key: cell["action"] for key, cell in cells(report).items()} == {
        ("gpu-1", "tiny"): None,
        ("gpu-2", "tiny"): None,
    }


@pytest.mark.parametrize("loop", [{}, {"loop": [1]}], ids=["task", "loop"])
def test_tasks_in_check_mode_tell_of_nothing_that_was_done(upgraded: Reporting, loop: dict[str, Any]) -> None:
    serve = {
        "name": "Serve it on one of them",
        "gpufleet.models.model_generation": {"root": "{{ model_store_root }}", "generation": "{{ item | default(1) }}"},
        "check_mode": "{{ inventory_hostname == 'gpu-1' and item | default(1) == 1 }}",
    }
    process = upgraded.run(INFO, {**serve, **loop})
    assert process.returncode == 0
    assert "DEPRECATION" not in process.stderr
    report = upgraded.report()
    assert [row["generation"] for row in report["hosts"]] == [2, 1]
    assert {key: cell["action"] for key, cell in cells(report).items()} == {
        ("gpu-1", "tiny"): None,
        ("gpu-2", "tiny"): "unchanged",
        ("gpu-2", "big"): "added",
    }


def test_loops_and_included_roles(deployed: Reporting) -> None:
    loop = {
        "name": "Look in a loop",
        "gpufleet.models.model_generation": {"root": "{{ model_store_root }}", "generation": "{{ item }}"},
        "loop": [1, 8],
    }
    role = {"ansible.builtin.include_role": {"name": "gpufleet.models.model_store", "tasks_from": "verify"}}
    process = deployed.run(role, loop)
    assert process.returncode == 2
    report = deployed.report()
    assert len(report["failures"]) == 2
    assert ["generation 8" in entry["msg"] for entry in report["failures"]] == [True, True], report["failures"]
    assert cells(report)["gpu-1", "big"]["verified"]["state"] == "verified"


def test_nothing_is_told_of_other_plays(deployed: Reporting) -> None:
    before = deployed.json.read_bytes()
    process = deployed.run({"ansible.builtin.debug": {"msg": "hello"}})
    assert process.returncode == 0
    assert "FLEET REPORT" not in process.stdout
    assert deployed.json.read_bytes() == before


def test_nobody_was_looked_at(deployed: Reporting) -> None:
    assert deployed.run({**INFO, "when": False}).returncode == 0
    report = deployed.report()
    assert [entry["msg"] for entry in report["failures"]] == ["no host was looked at"]
    assert [row["status"] for row in report["hosts"]] == ["not_looked_at"] * 2


def test_an_unreachable_host_and_batches_that_nobody_came_to(deployed: Reporting) -> None:
    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}
    deployed.fleet.hosts = {"away": away, **deployed.fleet.hosts}
    process = deployed.run(INFO, serial=1)
    assert process.returncode == 4
    report = deployed.report()
    assert [row["status"] for row in report["hosts"]] == ["unreachable", "not_looked_at", "not_looked_at"]
    assert [(entry["host"], entry["check"]) for entry in report["failures"]] == [("away", "unreachable")]
    errors = [case for suite in JUnitXml.fromfile(str(deployed.junit)) for case in suite if case.result]
    assert any(isinstance(result, Error) for case in errors for result in case.result)
    assert "UNREACHABLE" in table(process)


def test_a_play_that_keeps_the_others_from_beginning(deployed: Reporting) -> None:
    """What is wrong before the modules' play begins is in the report, which is not that of the run before."""
    deployed.fleet.variables["rollout_policy"] = "sometimes"
    process = deployed.play("rollback")
    assert process.returncode == 2
    assert "FLEET REPORT  NOT OK" in process.stdout
    report = deployed.report()
    assert report["complete"]
    (failure,) = report["failures"]
    assert "expected together or each, found sometimes" in failure["msg"]

    del deployed.fleet.variables["rollout_policy"]
    process = deployed.play("site")
    assert process.returncode == 2
    report = deployed.report()
    assert report["complete"]
    assert not report["previous"]["ok"]
    assert {entry["host"] for entry in report["failures"]} == {"gpu-1", "gpu-2"}
    assert all("expected the lock on the control node, found no file" in entry["msg"] for entry in report["failures"])
    assert [row["status"] for row in report["hosts"]] == ["failed", "failed"]


@pytest.mark.parametrize("name", ["site", "rollback"])
def test_a_playbook_that_ends_before_its_first_play(deployed: Reporting, name: str) -> None:
    process = deployed.play(name, "-e", "model_hosts=gpu_nodse")
    assert process.returncode != 0
    assert "model_hosts: gpu_nodse matches no host" in " ".join(process.stderr.split())
    report = deployed.report()
    assert not report["complete"]
    assert report["playbook"] == f"{name}.yml"
    (failure,) = report["failures"]
    assert "Ansible ended it with an error" in failure["msg"]


def test_a_later_playbook_of_the_same_command_that_fails(deployed: Reporting) -> None:
    later = deployed.fleet.home / "later.yml"
    fail = {"name": "Say no", "ansible.builtin.fail": {"msg": "the load balancer said no"}}
    later.write_text(yaml.safe_dump([{"hosts": "gpu-2", "gather_facts": False, "tasks": [fail]}]), encoding="utf-8")
    process = deployed.play(str(deployed.fleet.home / "own.yml"), str(later))
    assert process.returncode == 2
    report = deployed.report()
    assert [(entry["host"], entry["msg"]) for entry in report["failures"]] == [("gpu-2", "the load balancer said no")]
    assert [row["status"] for row in report["hosts"]] == ["ok", "failed"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_report_of_an_earlier_one(deployed: Reporting, number: signal.Signals) -> None:
    before = json.loads(deployed.json.read_text(encoding="utf-8"))
    playbook = deployed.fleet.home / "own.yml"
    begun = deployed.fleet.home / "begun"
    begin = {"name": "Begin", "ansible.builtin.file": {"path": str(begun), "state": "touch"}}
    wait = {"name": "Wait", "ansible.builtin.command": {"cmd": "sleep 300"}}
    tasks = [INFO, {**MISSING, "when": "inventory_hostname == 'gpu-2'"}, begin, wait]
    playbook.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": tasks}]), encoding="utf-8")
    command = ["ansible-playbook", "-i", str(deployed.fleet.inventory), str(playbook)]
    variables = {"ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".collections"), **deployed.environ}
    process = subprocess.Popen(
        command,
        env=environment(deployed.fleet.home, **variables),
        cwd=deployed.fleet.home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(begun.exists, "the play begins", 120)
        during = deployed.report()
        process.send_signal(number)
        process.wait(60)
    finally:
        # What it started has its process group.
        subprocess.run(["kill", "-KILL", "--", f"-{process.pid}"], check=False, stderr=subprocess.DEVNULL)
        process.wait()
    report = deployed.report()
    for document in (during, report):
        assert not document["ok"]
        assert not document["complete"]
        assert document["started"] != before["started"] or document["finished"] is None
    if number is signal.SIGINT:
        # It had the time to write down what it saw.
        assert [row["status"] for row in report["hosts"]] == ["ok", "failed"]
        assert {entry["check"] for entry in report["failures"]} == {"generation", "run"}

    deployed.run(INFO)
    report = deployed.report()
    assert report["ok"]
    assert report["previous"]["started"] == before["started"]


def test_a_path_that_cannot_be_written_is_told_and_changes_nothing(deployed: Reporting) -> None:
    blocked = deployed.directory / "file"
    blocked.write_text("mine", encoding="utf-8")
    deployed.environ["FLEET_REPORT_JUNIT"] = str(blocked / "fleet.xml")
    process = deployed.run(INFO)
    assert process.returncode == 0
    warning = " ".join(process.stderr.split())
    assert warning.count("fleet.xml: it was not written: ") == 1
    assert blocked.read_text(encoding="utf-8") == "mine"
    assert "FLEET REPORT" in process.stdout
    assert json.loads(deployed.json.read_text(encoding="utf-8"))["ok"]


def test_what_is_no_report_is_not_replaced(deployed: Reporting) -> None:
    deployed.json.write_text('{"users": []}', encoding="utf-8")
    process = deployed.run(INFO)
    assert process.returncode == 0
    assert "expected a report or nothing, found something else" in " ".join(process.stderr.split())
    assert deployed.json.read_text(encoding="utf-8") == '{"users": []}'


def test_hidden_results_and_tokens_appear_nowhere(deployed: Reporting) -> None:
    deployed.fleet.variables["model_store_token"] = TOKEN
    token = "{{ model_store_token }}"
    served = {"root": "{{ model_store_root }}", "generation": "1", "token": token}
    look = {"name": "Serve what is served", "gpufleet.models.model_generation": served}
    hidden = {"name": "Say it", "ansible.builtin.fail": {"msg": f"the token is {token}"}, "no_log": True}
    process = deployed.run(look, hidden)
    report = deployed.report()
    assert {entry["msg"] for entry in report["failures"]} == {"what failed is hidden, as the task has no_log"}
    texts = {path.name: path.read_text(encoding="utf-8") for path in deployed.directory.iterdir()}
    assert len(texts) == 4
    # Ansible itself shows what the action "fail" is given.
    texts["table"] = table(process)
    assert [(name, text) for name, text in texts.items() if TOKEN in text] == []


def test_hostile_words_of_a_host_are_harmless(deployed: Reporting) -> None:
    words = "\x1b[2J\x1b]0;owned\x07<script>alert(1)</script>]]>\x00\ud800\u202e & \"'" + "x" * 5000
    # It comes as the output of a host does, by way of JSON.
    say = {
        "name": "<b>",
        "ansible.builtin.fail": {"msg": "{{ words | from_json }}"},
        "vars": {"words": json.dumps(words)},
    }
    process = deployed.run(INFO, say)
    assert process.returncode == 2
    report = deployed.report()
    assert len(report["failures"]) == 2
    assert "\x1b" not in table(process)
    assert "<script" not in deployed.html.read_text(encoding="utf-8")
    assert all(len(entry["msg"]) <= 1000 for entry in report["failures"])
