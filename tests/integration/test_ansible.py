# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules as tasks of a real ``ansible-playbook``: the same answers in check mode, and no token anywhere."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.hub import Hub
from tests.hub.faults import Slow, Status
from tests.integration.harness import CHECKOUT, TOKEN, Host, environment, flip, locked, sha256_of
from tests.integration.test_security import CommandLines, files_with

QUARTET = {"check": True, "real": False, "again in check": True, "again": False}


def play(host: Host, *tasks: dict[str, Any], options: tuple[str, ...] = (), **variables: str) -> Any:
    """Run a play of these tasks on this machine and return the finished process."""
    playbook = host.home.parent / "play.yml"
    document = [{"hosts": "localhost", "gather_facts": False, "tasks": list(tasks)}]
    playbook.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    python = ("-e", "ansible_python_interpreter={{ ansible_playbook_python }}")
    return subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", *python, *options, str(playbook)],
        cwd=CHECKOUT,
        env=environment(host.home, ANSIBLE_CONFIG=str(CHECKOUT / "ansible.cfg"), **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def quartet(host: Host, module: str, **arguments: Any) -> list[dict[str, Any]]:
    """Run a module in check mode, for real, and both again; return the four results."""
    results = host.home.parent / "results.json"
    tasks: list[dict[str, Any]] = [
        {
            "name": name,
            f"gpufleet.models.{module}": arguments,
            "check_mode": check,
            "diff": True,
            "register": f"result_{number}",
        }
        for number, (name, check) in enumerate(QUARTET.items())
    ]
    content = "{{ [result_0, result_1, result_2, result_3] | to_json }}"
    tasks.append({"ansible.builtin.copy": {"content": content, "dest": str(results), "mode": "0600"}})
    done = play(host, *tasks, options=("--diff",))
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout, done.stdout
    answers: list[dict[str, Any]] = json.loads(results.read_text(encoding="utf-8"))
    predicted, real, check_again, again = answers
    assert [answer["changed"] for answer in answers] == [True, True, False, False]
    for name in ("models", "msg", "downloaded_bytes", "reused_bytes", "diff", "freed_bytes", "generations"):
        assert predicted.get(name) == real.get(name), name
        assert check_again.get(name) == again.get(name), name
    return answers


def test_quartets(host: Host, hub: Hub, tiny: dict[str, Any], big: dict[str, Any]) -> None:
    catalog = [{"name": "tiny", "repo_id": "acme/tiny"}, {"name": "big", "repo_id": "acme/big"}]
    answers = quartet(host, "model_lock", catalog=catalog, dest=str(host.lock_file), endpoint=hub.endpoint)
    assert answers[1]["diff"]["before"] == ""
    assert answers[1]["diff"]["after"] == host.lock_file.read_text(encoding="utf-8")
    assert sorted(host.locked_models(), key=lambda model: model["name"]) == [big, tiny]

    arguments = {"root": str(host.root), "endpoint": hub.endpoint}
    answers = quartet(host, "model_generation", models=[tiny], **arguments)
    assert answers[1]["generation"] == 1
    assert answers[1]["diff"]["after"] == f"tiny {tiny['commit']}\n"
    hub.stats.reset()
    answers = quartet(host, "model_generation", models=host.locked_models(), **arguments)
    assert answers[1]["downloaded_bytes"] == sum(file["size"] for file in big["files"])
    assert hub.stats.repeated_bytes() == 0
    host.assert_serves(tiny, big, generation=2)
    quartet(host, "model_generation", generation="1", root=str(host.root))
    host.assert_serves(tiny, generation=1)
    quartet(host, "model_generation", generation="2", state="absent", root=str(host.root))
    answers = quartet(host, "model_prune", root=str(host.root), keep=1, partial_max_age=0)
    assert answers[1]["blobs"] == 2


def test_repair_and_what_a_failure_says(
    serving: Host, hub: Hub, tiny: dict[str, Any], tiny_directory: Path, tmp_path: Path
) -> None:
    sha256 = sha256_of(tiny, "tiny-Q4_0.gguf")
    flip(serving.blob(sha256), 100)
    arguments = {"root": str(serving.root), "endpoint": hub.endpoint}
    done = play(serving, {"gpufleet.models.model_verify": arguments})
    assert done.returncode == 2
    assert "tiny-Q4_0.gguf of tiny" in done.stdout
    assert "Traceback" not in done.stdout
    done = play(serving, {"gpufleet.models.model_verify": {**arguments, "repair": True}})
    assert done.returncode == 0, done.stdout
    assert "changed=1" in done.stdout
    with hub.fault(Status(500)):
        models = [
            {**tiny, "name": "other", "repo_id": "acme/none", "files": [{**tiny["files"][0], "sha256": "0" * 64}]}
        ]
        done = play(serving, {"gpufleet.models.model_generation": {**arguments, "models": models, "retries": 0}})
    assert done.returncode == 2
    assert "of other: HTTP 500" in done.stdout
    assert "Traceback" not in done.stdout
    serving.assert_serves(tiny, generation=1)


@pytest.mark.parametrize("mistake", ["", "\n"], ids=["good token", "token with a line's end"])
def test_token_never_shows(host: Host, hub: Hub, tmp_path: Path, big_directory: Path, mistake: str) -> None:
    """At -vvv, in the arguments of any process, below the store, in the lock, in the home directory."""
    hub.add_repo("acme/gated", big_directory, gated=True, readers=[TOKEN])
    model = locked(hub, "gated", "acme/gated", big_directory)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "vars.yml").write_text(yaml.safe_dump({"secret": TOKEN + mistake}), encoding="utf-8")
    usual = {"endpoint": hub.endpoint, "token": "{{ secret }}"}
    catalog = [{"name": "gated", "repo_id": "acme/gated"}]
    tasks = [
        {"gpufleet.models.model_lock": {**usual, "catalog": catalog, "dest": str(host.lock_file), "timeout": 3}},
        {"gpufleet.models.model_generation": {**usual, "root": str(host.root), "models": [model], "retries": 0}},
        {"gpufleet.models.model_verify": {**usual, "root": str(host.root), "repair": True}},
    ]
    tasks = [{**task, "ignore_errors": bool(mistake)} for task in tasks]
    options = ("-vvv", "--diff", "-e", f"@{secrets / 'vars.yml'}")
    with hub.fault(Slow(32 * 1024 * 1024, origin="cdn")), CommandLines(TOKEN) as watch:
        done = play(host, *tasks, options=options)
    assert TOKEN not in done.stdout
    assert "Traceback" not in done.stdout
    assert done.returncode == 0, done.stdout
    assert watch.found == []
    (secrets / "vars.yml").unlink()
    assert files_with(TOKEN, tmp_path) == []
    assert not hub.stats.token_seen_at_cdn
    if not mistake:
        host.assert_serves(model, generation=1)
