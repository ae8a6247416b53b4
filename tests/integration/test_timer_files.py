# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role writes for hosts that verify by themselves. That systemd runs it is for the scenarios to show."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.plugin_utils._zipapp import build
from tests.integration.fleet import recap
from tests.integration.harness import Host, environment, flip, sha256_of, snapshot
from tests.integration.test_ansible import play


class Timer:
    """A host's directories for what the timer takes, all of them with names that systemd has to be told with care."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.place = host.home.parent / "its own 100%h $5 place"
        self.units = self.place / "units"
        self.units.mkdir(parents=True)
        self.textfiles = self.place / "textfiles"
        self.metrics = self.place / "state" / "gpufleet_models.prom"
        self.variables: dict[str, Any] = {
            "model_store_root": str(host.root),
            "model_store_verify_timer": "present",
            "model_store_verify_timer_textfile": str(self.textfiles),
            # Where it is on a real host is the role's own business.
            "_model_store_timer_units": str(self.units),
            "_model_store_timer_program": str(self.place / "gpufleet-verify.pyz"),
            "_model_store_timer_state": str(self.metrics.parent),
        }

    def play(self, *entries: str, options: tuple[str, ...] = (), **variables: Any) -> subprocess.CompletedProcess[str]:
        role = "gpufleet.models.model_store"
        tasks = [{"ansible.builtin.import_role": {"name": role, "tasks_from": entry}} for entry in entries]
        wanted = self.place.parent / "wanted.json"
        wanted.write_text(json.dumps({**self.variables, **variables}), encoding="utf-8")
        done = play(self.host, *tasks, options=("-e", f"@{wanted}", *options))
        assert "WARNING" not in done.stdout, done.stdout
        process: subprocess.CompletedProcess[str] = done
        return process

    def files(self, *options: str, **variables: Any) -> int:
        """Write the files, and return how many tasks changed something."""
        done = self.play("timer_files", options=options, **variables)
        assert done.returncode == 0, done.stdout
        return recap(done)["changed"]

    def command(self) -> list[str]:
        """Return the service's command line, as systemd reads it."""
        unit = (self.units / "gpufleet-verify.service").read_text(encoding="utf-8").replace("\\\n", " ")
        (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
        return shlex.split(line.partition("=")[2].replace("%%", "%").replace("$$", "$"))


@pytest.fixture
def timer(serving: Host) -> Timer:
    return Timer(serving)


def test_files_are_written_once(timer: Timer) -> None:
    before = snapshot(timer.place)
    assert timer.files("--check", "--diff") == 5
    assert snapshot(timer.place) == before
    assert timer.files("--diff") == 5
    written = snapshot(timer.place)
    assert timer.files() == 0
    assert timer.files("--check", "--diff") == 0
    assert snapshot(timer.place) == written
    assert (timer.place / "gpufleet-verify.pyz").read_bytes() == build("_verifier")


def test_the_service_does_what_its_command_line_says(timer: Timer, tiny: dict[str, Any]) -> None:
    timer.files()
    command = timer.command()
    assert command[:2] == [sys.executable, "-I"]
    assert command[command.index("--budget") + 1] == "3600.0"
    assert "--repair-from" not in command
    host = timer.host
    flip(host.blob(sha256_of(tiny, "config.json")), 1)

    def night() -> tuple[int, str]:
        done = subprocess.run(
            timer.command(), env=environment(host.home), capture_output=True, text=True, check=False, cwd="/"
        )
        return done.returncode, done.stdout + done.stderr

    status, said = night()
    assert status == 1
    assert "config.json of tiny: 1 of its 1 blocks are not as they were received" in said
    link = timer.textfiles / "gpufleet_models.prom"
    assert link.is_symlink()
    assert 'model="tiny"' in link.read_text(encoding="utf-8")
    assert 'commit="' + tiny["commit"] + '"} 0\n' in link.read_text(encoding="utf-8")

    wanted = {"model_store_verify_timer_repair": True, "model_store_verify_timer_budget": 0}
    assert timer.files(model_store_endpoint=host.hub.endpoint, **wanted) == 1
    assert "--budget" not in timer.command()
    status, said = night()
    assert (status, said.partition(";")[0]) == (0, "generation 1: 1 files were mended")
    host.assert_serves(tiny, generation=1)


def test_the_playbooks_have_the_metrics_written_again(timer: Timer, tiny: dict[str, Any]) -> None:
    # Where there is no verifier nothing is done.
    assert recap(timer.play("metrics"))["failed"] == 0
    assert not timer.metrics.exists()
    timer.files()
    host = timer.host
    flip(host.blob(sha256_of(tiny, "config.json")), 1)
    options = {"model_store_endpoint": host.hub.endpoint}
    assert recap(timer.play("verify", **options))["failed"] == 1
    verified = f'gpufleet_model_verified{{model="tiny",commit="{tiny["commit"]}"}}'
    assert f"{verified} 0\n" in timer.metrics.read_text(encoding="utf-8")
    assert recap(timer.play("verify", **options, model_store_verify_repair=True))["failed"] == 0
    assert f"{verified} 1\n" in timer.metrics.read_text(encoding="utf-8")


def test_an_unknown_state_is_refused(timer: Timer) -> None:
    done = timer.play("timer", model_store_verify_timer="on")
    assert done.returncode == 2
    assert "value of model_store_verify_timer must be one of" in " ".join(done.stdout.split())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here; the scenarios run on it")
@pytest.mark.parametrize("repair", [False, True])
def test_systemd_finds_nothing_wrong_with_the_units(timer: Timer, repair: bool) -> None:
    timer.files(model_store_verify_timer_repair=repair, model_store_group="root")
    units = [str(timer.units / f"gpufleet-verify.{kind}") for kind in ("service", "timer")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
