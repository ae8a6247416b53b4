# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report: the verdict, what hosts hold after what their modules said, outliers, changes, and hostile results."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.gpufleet.models.plugins.plugin_utils._plain import plain
from ansible_collections.gpufleet.models.plugins.plugin_utils._report import find_changes, make_report
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_failures import (
    FailedTask,
    Failure,
    failed_task,
    failures_of,
)
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_files import read_report, to_json, write_file
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_host import OBSERVED, Host
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_html import make_page
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_junit import make_junit
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_text import make_table
from tests.report.results import FINISHED, commit_of, fleet, make_run, smoke_entry, smoke_result, store_info

SCHEMA = json.loads((Path(__file__).parents[3] / "docs/report.schema.json").read_text(encoding="utf-8"))
MINILM = "all-MiniLM-L6-v2"


def host_of(*results: tuple[str, dict[str, Any]], check_mode: bool = False) -> Host:
    """Return a host after what its modules said."""
    host = Host()
    for module, result in results:
        host.observe(module, result, FINISHED, check_mode)
    return host


def row_of(*results: tuple[str, dict[str, Any]], check_mode: bool = False) -> dict[str, Any]:
    """Return such a host as a report has it."""
    run = make_run(check_mode)
    run.hosts["gpu-1"] = host_of(*results, check_mode=check_mode)
    report = make_report(run, None)
    jsonschema.Draft202012Validator(SCHEMA).validate(report)
    (row,) = report["hosts"]
    return dict(row)


def generation(number: int | None, action: str, changed: bool, served: bool, model: str = MINILM) -> dict[str, Any]:
    """Return what ``model_generation`` says."""
    change = {"name": model, "commit": "e" * 40, "action": action}
    return {"generation": number, "models": [change], "changed": changed, "served": served, "directory": "/opt"}


# The verdict.


def test_a_fleet_where_all_is_well() -> None:
    report = fleet(3, failing=False)
    jsonschema.Draft202012Validator(SCHEMA).validate(report)
    assert report["ok"]
    assert report["failures"] == []


def test_no_host_and_none_that_was_looked_at_are_not_ok() -> None:
    run = make_run()
    assert not make_report(run, None)["ok"]
    run.hosts["gpu-1"] = Host()
    report = make_report(run, None)
    assert not report["ok"]
    assert [failure["msg"] for failure in report["failures"]] == ["no host was looked at"]


def test_a_run_that_goes_on_is_not_ok() -> None:
    run = make_run()
    run.hosts["gpu-1"] = host_of(("model_store_info", store_info(7, [MINILM])))
    assert make_report(run, None)["ok"]
    run.finished = None
    report = make_report(run, None)
    assert not report["ok"]
    assert not report["complete"]


@pytest.mark.parametrize("status", ["failed", "unreachable"])
def test_a_host_that_ansible_counts_is_never_ok(status: str) -> None:
    """Even where no result of a task ever said so."""
    run = make_run()
    run.hosts["gpu-1"] = host_of(("model_store_info", store_info(7, [MINILM])))
    setattr(run, status, frozenset(["gpu-1"]))
    report = make_report(run, None)
    assert not report["ok"]
    assert report["hosts"][0]["status"] == status


# What a host holds.


def test_what_the_store_tells() -> None:
    row = row_of(("model_store_info", store_info(7, [MINILM], [smoke_entry(MINILM, 12.5, 3.25)])))
    assert (row["generation"], row["served"], row["status"]) == (7, True, "ok")
    (cell,) = row["models"]
    assert cell["commit"] == commit_of(MINILM)
    # Two days and the run's own time before its end.
    assert cell["verified"]["age_seconds"] == 2 * 86400 + 200
    assert cell["smoke"]["state"] == "pass"
    (run,) = cell["smoke"]["runs"]
    assert (run["latency_ms_median"], run["load_seconds_cold"], run["load_seconds_warm"]) == (12.5, 3.25, 3.25 / 4)


@pytest.mark.parametrize(
    "info",
    [("model_store_info", store_info(7, [MINILM])), ("model_preflight", {"store": store_info(7, [MINILM])})],
    ids=lambda info: info[0],
)
def test_a_new_generation_is_verified_now_and_known_when_served(info: tuple[str, dict[str, Any]]) -> None:
    row = row_of(info, ("model_generation", generation(8, "updated", True, False)))
    assert (row["generation"], row["served"]) == (7, True)
    row = row_of(
        info,
        ("model_generation", generation(8, "updated", True, False)),
        ("model_smoke", smoke_result(8, [smoke_entry(MINILM)])),
        ("model_generation", generation(8, "updated", True, True)),
    )
    assert (row["generation"], row["served"]) == (8, True)
    (cell,) = row["models"]
    assert (cell["commit"], cell["action"]) == ("e" * 40, "updated")
    assert cell["verified"] == {
        "state": "verified",
        "at": FINISHED,
        "age_seconds": 0,
        "damaged_files": 0,
        "repaired_files": 0,
    }
    assert (cell["smoke"]["state"], cell["smoke"]["at"]) == ("pass", FINISHED)


@pytest.mark.parametrize(("action", "told"), [("unchanged", "unchanged"), ("updated", None)])
def test_what_has_to_change_is_told_when_it_did(action: str, told: str | None) -> None:
    planned = generation(None, action, False, False)["models"]
    row = row_of(("model_preflight", {"store": store_info(7, [MINILM]), "models": planned}))
    (cell,) = row["models"]
    assert cell["action"] == told


def test_a_first_generation_that_is_not_served() -> None:
    row = row_of(("model_store_info", store_info(None, [])), ("model_generation", generation(1, "added", True, False)))
    assert (row["generation"], row["served"]) == (1, False)
    row = row_of(
        ("model_store_info", store_info(None, [])),
        ("model_generation", generation(1, "added", True, False)),
        ("model_generation", {"generation": 1, "models": [], "changed": True, "served": False}),
    )
    assert row["models"] == []


def test_a_rollback_says_nothing_of_the_content() -> None:
    row = row_of(("model_generation", generation(6, "updated", True, True)))
    (cell,) = row["models"]
    assert (cell["verified"]["state"], cell["smoke"]["state"]) == ("unknown", "unknown")


def test_check_mode_tells_the_plan() -> None:
    info = ("model_store_info", store_info(7, [MINILM]))
    row = row_of(info, ("model_generation", generation(None, "updated", True, True)), check_mode=True)
    (cell,) = row["models"]
    assert (cell["commit"], cell["action"], cell["planned_commit"]) == (commit_of(MINILM), "updated", "e" * 40)


def test_a_run_did_not_do_what_one_of_its_tasks_only_looked_at() -> None:
    """Whether it comes to it or not: before a rollback, all hosts look at the generation to go back to."""
    run = make_run()
    run.hosts["gpu-1"] = host = host_of(("model_store_info", store_info(7, [MINILM])))
    back = generation(6, "updated", True, True)
    host.observe("model_generation", back, FINISHED, True)
    (row,) = make_report(run, None)["hosts"]
    assert (row["generation"], row["served"]) == (7, True)
    (cell,) = row["models"]
    assert (cell["commit"], cell["action"], cell["planned_commit"]) == (commit_of(MINILM), None, None)

    host.observe("model_generation", back, FINISHED, False)
    (row,) = make_report(run, None)["hosts"]
    (cell,) = row["models"]
    assert (row["generation"], cell["commit"], cell["action"]) == (6, "e" * 40, "updated")


def test_a_conversion_has_a_run_of_its_own() -> None:
    own, converted = smoke_entry(MINILM, 12), {**smoke_entry(MINILM, 5), "engine": "openvino"}
    row = row_of(
        ("model_store_info", store_info(7, [MINILM])),
        ("model_convert", {"generation": 8, "source_generation": 7, "models": [], "changed": True}),
        ("model_smoke", smoke_result(8, [own, converted])),
        ("model_generation", generation(8, "unchanged", True, True)),
    )
    (cell,) = row["models"]
    assert [run["engine"] for run in cell["smoke"]["runs"]] == ["transformers", "openvino"]
    assert cell["commit"] == commit_of(MINILM)


def test_a_test_that_was_passed_before_keeps_its_time() -> None:
    entries = [smoke_entry(MINILM)]
    row = row_of(
        ("model_store_info", store_info(7, [MINILM], entries)),
        ("model_smoke", {**smoke_result(7, entries), "tested": False}),
    )
    assert row["models"][0]["smoke"]["at"] == "2026-03-01T05:06:07+00:00"


def test_damage_counts_until_it_is_repaired() -> None:
    info = store_info(7, [MINILM])
    defect = {"model": MINILM, "path": "a", "sha256": "0" * 64, "reason": "1 of its 3 blocks"}
    found = {"generation": 7, "models": info["generations"][0]["models"], "corrupt": [defect], "missing": [defect]}
    row = row_of(("model_verify", found), ("model_store_info", info))
    assert row["models"][0]["verified"]["state"] == "damaged"
    assert row["models"][0]["verified"]["damaged_files"] == 2
    mended = {**found, "corrupt": [], "missing": [], "repaired": [defect]}
    row = row_of(("model_verify", found), ("model_verify", mended))
    assert (row["models"][0]["verified"]["state"], row["status"]) == ("repaired", "ok")


def test_gpus_and_python() -> None:
    gpu = {"index": 3, "uuid": "GPU-1", "name": "NVIDIA L4", "ok": False, "checks": []}
    row = row_of(
        ("gpu_check", {"verdict": "fail", "msg": "GPUs do not compute right", "gpus": [gpu], "peers": []}),
        ("python_env", {"environment": "0f3c", "python_version": "3.12.3", "torch_cuda": None}),
    )
    assert row["gpus"]["gpus"][0]["name"] == "NVIDIA L4"
    assert row["python"]["environment"] == "0f3c"


# Failures.


def task(msg: str, blocks: tuple[str, ...] = (), rescued_by: str | None = None) -> FailedTask:
    return FailedTask("task", msg, (Failure("task", msg),), False, blocks, rescued_by)


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ([task("it broke")], ["it broke"]),
        # A rescue that repeats the reason adds none; one that fails by itself does.
        ([task("it broke", ("a",), "a"), task("it broke - checked: 1 is served", ("a",))], ["it broke"]),
        ([task("it broke", ("a",), "a"), task("no way back", ("a",))], ["it broke", "no way back"]),
        ([task("y" * 1000, ("a",), "a"), task("y" * 999 + "…", ("a",))], ["y" * 1000]),
        # What another rescue mended is no cause.
        ([task("mended", ("a",), "a"), task("it broke", ("b",))], ["it broke"]),
        # A rescue within a rescue.
        (
            [task("first", ("b", "a"), "b"), task("second", ("b", "a"), "a"), task("third", ("a",))],
            ["first", "second", "third"],
        ),
        # Where nobody can tell, the last one ended it.
        ([task("mended", ("a",), "a"), task("it broke", ("b",), "b")], ["it broke"]),
    ],
)
def test_which_failures_count(tasks: list[FailedTask], told: list[str]) -> None:
    assert [failure.msg for _task, failure in failures_of(tasks)] == told


def test_what_the_modules_found_is_told_apart() -> None:
    result = smoke_result(8, [smoke_entry(MINILM, ok=False), smoke_entry("e5-small")])
    (failure,) = failed_task("model_smoke", "Run", [result], [], None).failures
    assert failure == Failure(
        "golden",
        "expected a cosine of at least 0.99999, found 0.867000",
        MINILM,
        "a cosine of at least 0.99999",
        "0.867000",
    )
    crash = {**smoke_entry(MINILM, ok=False), "checks": [], "attempts": [{"failure": "it was killed"}]}
    (failure,) = failed_task("model_smoke", "Run", [smoke_result(8, [crash])], [], None).failures
    assert (failure.check, failure.msg) == ("smoke", "it was killed")
    problems = {"problems": ["a: one", "b: two"], "msg": "a: one; b: two; nothing was changed"}
    found = failed_task("model_preflight", "Look", [problems], [], None).failures
    assert [entry.msg for entry in found] == ["a: one", "b: two"]
    check = {"check": "product float32", "ok": False, "expected": "whole numbers", "found": "others"}
    gpus = {"gpus": [{"index": 3, "ok": False, "checks": [check]}], "peers": [], "msg": "GPUs do not compute right"}
    (failure,) = failed_task("gpu_check", "Check", [gpus], [], None).failures
    assert (failure.check, failure.found) == ("GPU 3 product float32", "others")
    items = [{"msg": "one"}, {"msg": "three"}]
    assert [entry.msg for entry in failed_task(None, "Loop", items, [], None).failures] == ["one", "three"]


def test_a_damaged_model_of_many_files_is_not_told_file_by_file() -> None:
    defects = [{"model": MINILM, "path": f"{number}", "reason": "gone"} for number in range(500)]
    found = failed_task("model_verify", "Verify", [{"missing": defects, "msg": "500 files"}], [], None).failures
    assert len(found) == 21
    assert found[-1].msg == "and 480 more failures of this task"


def test_the_model_is_read_from_the_engines_sentences() -> None:
    run = make_run()
    run.hosts["gpu-1"] = host_of(("model_store_info", store_info(7, ["tiny", "tiny-2"])))
    run.failed = frozenset(["gpu-1"])
    run.tasks["gpu-1"] = [task("config.json of tiny-2: expected SHA-256 0, found 1"), task("tiny: a GPU is required")]
    assert [failure["model"] for failure in make_report(run, None)["failures"]] == ["tiny-2", "tiny"]


# Outliers and changes.


def test_slow_hosts_are_outliers_and_fast_ones_are_not() -> None:
    report = fleet(12, 1)
    assert {(entry["host"], entry["measure"]) for entry in report["outliers"]} == {
        ("gpu-04", "latency_ms_median"),
        ("gpu-04", "load_seconds_cold"),
    }
    assert fleet(12, 6, False)["outliers"] == []


@pytest.mark.parametrize(
    ("latencies", "slow"),
    [([10, 30], []), ([10, 11, 30], [2]), ([10, 10, 10, 12], []), ([10, 10, 10, 13], [3]), ([10, 10, 1], [])],
)
def test_who_is_slow(latencies: list[float], slow: list[int]) -> None:
    run = make_run()
    for place, latency in enumerate(latencies):
        run.hosts[f"{place}"] = host_of(("model_store_info", store_info(7, [MINILM], [smoke_entry(MINILM, latency)])))
    found = [int(entry["host"]) for entry in make_report(run, None)["outliers"]]
    assert found == slow


def test_hosts_with_another_gpu_are_not_compared() -> None:
    run = make_run()
    for place, device in enumerate(["NVIDIA L4", "NVIDIA L4", "NVIDIA L4", "CPU"]):
        entry = {**smoke_entry(MINILM, 900 if device == "CPU" else 10), "device": device}
        run.hosts[f"{place}"] = host_of(("model_store_info", store_info(7, [MINILM], [entry])))
    assert make_report(run, None)["outliers"] == []


def test_changes_are_what_both_reports_tell() -> None:
    before = fleet(5, 2, False)
    assert list(find_changes(before, copy.deepcopy(before))) == []
    after = fleet(5, 2)
    found = {
        (change["host"], change["model"], change["what"], change["after"]) for change in find_changes(before, after)
    }
    assert found == {
        ("gpu-2", None, "status", "failed"),
        ("gpu-2", MINILM, "smoke", "fail"),
        ("gpu-3", None, "status", "unreachable"),
        ("gpu-5", None, "status", "failed"),
        ("gpu-5", "bge-base-en-v1.5", "content", "damaged"),
    }
    # A run of other hosts, and one that says nothing of the models.
    assert list(find_changes(before, {"hosts": []})) == []
    less = copy.deepcopy(before)
    del less["hosts"][0]["models"][0]
    assert [(change["what"], change["before"], change["after"]) for change in find_changes(before, less)] == [
        ("model", "there", "gone")
    ]


# The files.


def test_a_report_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "made" / "report.json"
    assert read_report(str(path)) is None
    report = fleet(5)
    write_file(str(path), to_json(report))
    assert read_report(str(path)) == report
    assert [entry.name for entry in path.parent.iterdir()] == ["report.json"]
    # One of a run that did not come to its end is nothing to compare with.
    write_file(str(path), to_json({**report, "complete": False}))
    assert read_report(str(path)) is None


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "{", '{"report_version": 2}', '{"report_version": 1}', "[" * 100000]
)
def test_what_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="no report of version 1"):
        read_report(str(path))


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_file(str(tmp_path / "report.json"), b"{}")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


# The table.


@pytest.mark.parametrize("hosts", [1, 12, 100])
@pytest.mark.parametrize("columns", [79, 120])
def test_the_table_fits(hosts: int, columns: int) -> None:
    report = fleet(hosts)
    report["hosts"][0]["host"] = "gpu-rack-17-unit-04.europe-west.example.com"
    lines = make_table(report, columns).splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) < 110
    assert lines[0].startswith("FLEET REPORT  ")
    if hosts > 2:
        assert any("UNREACHABLE" in line for line in lines)
        assert any("0.867000" in line for line in " ".join(lines).split("FAILURES"))


def test_a_table_of_many_hosts_sums_them_up() -> None:
    lines = make_table(fleet(100), 100).splitlines()
    line = next(line for line in lines if line.startswith(MINILM))
    assert line.split()[1:3] == ["99", commit_of(MINILM)[:7]]
    assert "98 pass, 1 FAIL" in line
    assert any(line.startswith("pixtral-12b") and "1 DAMAGED" in line for line in lines)
    assert "97 ok, 2 FAILED, 1 UNREACHABLE" in lines


# Whatever a host sends.

TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "model",
                    "ok",
                    "checks",
                    "check",
                    "msg",
                    "failure",
                    "attempts",
                    "commit",
                    "generation",
                    "median",
                    "cold",
                    "index",
                    "path",
                    "reason",
                    "verdict",
                    "action",
                    "last_verified",
                    "current",
                    "smoke",
                    "models",
                    "at",
                ]
            ),
            inner,
            max_size=8,
        )
    ),
    max_leaves=30,
)
FIELDS = (
    "generation",
    "generations",
    "models",
    "current",
    "smoke",
    "corrupt",
    "missing",
    "repaired",
    "gpus",
    "peers",
    "verdict",
    "msg",
    "problems",
    "tested",
    "changed",
    "served",
    "source_generation",
    "results",
    "environment",
)
EARLIER = fleet(3)
RESULT = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, ANY))


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(sorted(OBSERVED)), RESULT), max_size=4), TEXT, TEXT)
def test_no_result_does_harm(results: list[tuple[str, dict[str, Any]]], name: str, msg: str) -> None:
    run = make_run()
    run.hosts[name] = host_of(*results)
    run.failed = frozenset([name])
    run.tasks[name] = [failed_task(module, msg, [result], [], None) for module, result in results]
    report = make_report(run, EARLIER)
    jsonschema.Draft202012Validator(SCHEMA).validate(report)
    assert not report["ok"]
    assert json.loads(to_json(report)) == report
    assert len(list(ElementTree.fromstring(make_junit(report)).iter("failure"))) == len(report["failures"])
    make_page(report).decode()
    table = make_table(report, 79)
    assert not [character for character in table if character != "\n" and plain(f"x{character}x") != f"x{character}x"]


@given(st.text(st.characters(exclude_categories=()), max_size=3000))
def test_plain_text_is_short_printable_and_writable(value: str) -> None:
    text = plain(value, 100)
    assert text is not None
    assert len(text) <= 100
    assert "\n" not in text
    assert "\x1b" not in text
    ElementTree.fromstring(ElementTree.tostring(_element(text), encoding="utf-8"))


def _element(text: str) -> ElementTree.Element:
    element = ElementTree.Element("text", value=text)
    element.text = text
    return element


def test_sequences_of_a_terminal_go_as_a_whole() -> None:
    assert plain("\x1b[31mred\x1b[0m \x1b]0;title\x07and\r\n  more") == "red and more"


def test_a_report_of_many_hosts_is_not_large() -> None:
    report = fleet(1000)
    assert len(make_page(report)) < 4e6
    assert len(make_junit(report)) < 4e6
    assert len(to_json(report)) < 1e7
