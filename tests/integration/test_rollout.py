# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rolling out to several hosts: staged on all, then served on all, or on none."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from tests.hub.faults import Stall
from tests.integration.fleet import Fleet, recaps
from tests.integration.harness import CHECKOUT, ModuleProcess, environment, locked, wait_until

# A hook writes down what it was told and what is served, and does then what a file beside it asks for: fail, or hang.
HOOK = """
- name: Note the {kind} hook
  ansible.builtin.shell:
    cmd: |
      echo {kind} {{{{ model_store_hook.previous_generation }}}} to {{{{ model_store_hook.generation }}}}, \\
        {{{{ 'back, ' if model_store_hook.way_back else '' }}}}$(basename "$(readlink current)") >> hooks.txt
      while test -e {kind}-hangs; do sleep 0.1; done
      if test -e {kind}-fails; then echo the {kind} hook broke >&2; exit 1; fi
    chdir: "{{{{ model_store_root }}}}"
  changed_when: false
"""


class Hosts(Fleet):
    """Several hosts, each with a store of its own, and a lock of one small model."""

    def __init__(self, hub: Hub, directory: Path, names: list[str]) -> None:
        super().__init__(hub, directory)
        self.directory = directory
        del self.variables["model_catalog"], self.variables["model_store_link"]
        self.variables["cuda_driver_enabled"] = False
        self.hosts = {name: {"model_store_root": str(directory / name)} for name in names}
        hub.add_repo("acme/small", self._version("first"))
        self._lock("first")

    def _version(self, name: str) -> Path:
        directory = self.directory / "versions" / name
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps({"model_type": name}), encoding="utf-8")
        (directory / "vocab.txt").write_text("the same\n", encoding="utf-8")
        return directory

    def _lock(self, name: str) -> None:
        model = locked(self.hub, "small", "acme/small", self.directory / "versions" / name)
        self.lock_file.write_text(json.dumps({"lock_version": 1, "models": [model]}), encoding="utf-8")

    def upgrade(self, name: str) -> None:
        """Lock a newer commit of the model."""
        self.hub.repositories["acme/small"].add_commit(self._version(name))
        self._lock(name)
        self.hub.stats.reset()

    def serve(self) -> None:
        """Let all hosts serve what is locked, without a playbook."""
        models = json.loads(self.lock_file.read_text(encoding="utf-8"))["models"]
        for host in self.hosts:
            arguments = {"root": str(self.root_of(host)), "models": models, "endpoint": self.hub.endpoint}
            result = ModuleProcess("model_generation", arguments, environment(self.home)).finish()
            assert result.status == 0, result.output

    def run(self, name: str, *arguments: str, **environ: str) -> dict[str, dict[str, int]]:
        """Run a playbook and return the recap's counters by host."""
        process = self.play(name, *arguments, **environ)
        self.status = process.returncode
        self.output = process.stdout + process.stderr
        assert "Traceback" not in self.output, self.output
        return recaps(process)

    def failed(self, name: str, *arguments: str, **environ: str) -> set[str]:
        """Run a playbook and return the hosts that failed or could not be reached."""
        recap = self.run(name, *arguments, **environ)
        failed = {host for host, counts in recap.items() if counts["failed"] or counts["unreachable"]}
        assert bool(failed) == (self.status != 0), self.output
        return failed

    def changed(self, name: str) -> int:
        """Run a playbook that succeeds; return how many tasks changed something on any host."""
        recap = self.run(name)
        assert self.status == 0, self.output
        return sum(counts["changed"] for counts in recap.values())

    def message(self, host: str) -> str:
        """Return what a host said when it failed for the last time."""
        found = re.findall(rf"fatal: \[{host}\]: \S+ => (\{{.*\}})$", self.output, re.MULTILINE)
        assert found, self.output
        return str(json.loads(found[-1])["msg"])

    def root_of(self, host: str) -> Path:
        return self.directory / host

    def serves(self) -> dict[str, int | None]:
        """Return the number of the generation that each host serves, by what the link says."""
        found: dict[str, int | None] = {}
        for host in self.hosts:
            link = self.root_of(host) / "current"
            found[host] = int(link.readlink().name) if link.is_symlink() else None
        return found

    def generations(self, host: str) -> list[int]:
        return sorted(int(path.name) for path in (self.root_of(host) / "generations").iterdir())

    def hook(self, kind: str) -> None:
        path = self.inventory.parent / f"{kind}.yml"
        path.write_text(HOOK.format(kind=kind), encoding="utf-8")
        self.variables[f"model_store_{kind}_activate"] = f"{kind}.yml"

    def came_to(self, kind: str, host: str) -> bool:
        path = self.root_of(host) / "hooks.txt"
        return path.exists() and kind in path.read_text(encoding="utf-8")

    def die_in(self, kind: str) -> None:
        """Let the control node die while all hosts run the hook."""
        hanging = [self.root_of(host) / f"{kind}-hangs" for host in self.hosts]
        for path in hanging:
            path.touch()
        with self.started("site") as process:
            wait_until(lambda: all(self.came_to(kind, host) for host in self.hosts), "the hooks", timeout=120)
            os.killpg(process.pid, signal.SIGKILL)
        for path in hanging:
            path.unlink()
        for host in self.hosts:
            self.hooked(host)

    def noted(self) -> set[str]:
        """Return the hosts whose stores say that a run is in its second phase, or died in it."""
        return {host for host in self.hosts if (self.root_of(host) / "activation.json").exists()}

    def hooked(self, host: str) -> list[str]:
        """Return what the hooks wrote on a host since the last time, and forget it."""
        path = self.root_of(host) / "hooks.txt"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def hosts(hub: Hub, tmp_path: Path) -> Hosts:
    """Three hosts that have nothing yet."""
    return Hosts(hub, tmp_path, ["gpu-1", "gpu-2", "gpu-3"])


@pytest.fixture
def upgraded(hosts: Hosts) -> Hosts:
    """Three hosts that serve generation 1, and a lock with a newer commit."""
    hosts.serve()
    hosts.upgrade("second")
    return hosts


ALL = {"gpu-1", "gpu-2", "gpu-3"}


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def unreachable() -> dict[str, Any]:
    """Return the variables of a host that does not answer."""
    return {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": closed_port()}


# All together.


def test_one_host_that_cannot_stage_keeps_all_from_serving(upgraded: Hosts) -> None:
    upgraded.hosts["gpu-2"]["model_store_timeout"] = 0.000001
    # Staging takes longer than that, however fast the host is; the one byte of the preflight is not held up.
    with upgraded.hub.fault(Stall(2, 2)):
        assert upgraded.failed("site") == ALL
    assert upgraded.serves() == dict.fromkeys(upgraded.hosts, 1)
    for host in ("gpu-1", "gpu-3"):
        message = upgraded.message(host)
        assert message.startswith("gpu-2 failed (")
        assert "0.000001" in message or "1e-06" in message
        assert "generation 2 is ready here, not served" in message
        assert upgraded.generations(host) == [1, 2]
    assert "checked: generation 1 is whole and served as before" in upgraded.message("gpu-2")
    assert upgraded.generations("gpu-2") == [1]

    # The next run goes on from there: at most the host that failed asks, for a first byte and for the file.
    del upgraded.hosts["gpu-2"]["model_store_timeout"]
    upgraded.hub.stats.reset()
    assert upgraded.failed("site") == set()
    assert upgraded.serves() == dict.fromkeys(upgraded.hosts, 2)
    assert len(upgraded.hub.stats.exchanges()) <= 2
    assert upgraded.changed("site") == 0


def test_an_unreachable_host(upgraded: Hosts) -> None:
    reachable = dict(upgraded.hosts["gpu-3"])
    upgraded.hosts["gpu-3"] |= unreachable()
    # Not those that fail for its sake, however many there are.
    assert upgraded.failed("site", "--forks", "1") == ALL
    for host in ("gpu-1", "gpu-2"):
        assert re.match(r"gpu-3 failed \([^)]*connect.*\), and these hosts", upgraded.message(host))
    assert upgraded.serves() == dict.fromkeys(upgraded.hosts, 1)

    assert upgraded.failed("site", "-e", "rollout_policy=each") == {"gpu-3"}
    assert upgraded.serves() == {"gpu-1": 2, "gpu-2": 2, "gpu-3": 1}

    # Who serves it already has nothing to wait for.
    assert upgraded.failed("site") == {"gpu-3"}
    upgraded.hosts["gpu-3"] = reachable
    assert upgraded.failed("site") == set()
    assert upgraded.serves() == dict.fromkeys(upgraded.hosts, 2)


def test_a_fast_host_waits_for_a_slow_one(hosts: Hosts) -> None:
    """Whatever strategy is configured."""
    slow = hosts.directory / "slow-python"
    slow.write_text(f'#!/bin/sh\nsleep 2\nexec {sys.executable} "$@"\n', encoding="utf-8")
    slow.chmod(0o755)
    hosts.hosts["gpu-2"]["ansible_python_interpreter"] = str(slow)
    assert hosts.failed("site", ANSIBLE_STRATEGY="free") == set()
    staged = max((hosts.root_of(host) / "generations/1/small").stat().st_mtime_ns for host in hosts.hosts)
    served = min((hosts.root_of(host) / "current").lstat().st_mtime_ns for host in hosts.hosts)
    assert staged < served


def test_a_play_of_ones_own(hosts: Hosts) -> None:
    """As the documentation has it; without the barrier the role lets each host go alone."""
    text = (CHECKOUT / "docs" / "rollout.md").read_text(encoding="utf-8")
    (play,) = re.findall(r"```yaml\n(- hosts: .*?)```", text, re.DOTALL)
    playbook = hosts.directory / "own.yml"
    playbook.write_text(play.replace("hosts: embedding", "hosts: all\n  gather_facts: false"), encoding="utf-8")
    hosts.hosts["gpu-1"]["model_store_endpoint"] = f"http://127.0.0.1:{closed_port()}"
    assert hosts.failed(str(playbook)) == ALL
    assert hosts.serves() == dict.fromkeys(hosts.hosts)
    assert hosts.failed(str(playbook), "-e", '{"batch": []}') == {"gpu-1"}
    assert hosts.serves() == {"gpu-1": None, "gpu-2": 1, "gpu-3": 1}


# Batches.


def test_a_batch_that_fails_is_the_last(upgraded: Hosts) -> None:
    upgraded.variables["rollout_serial"] = [1, "100%"]
    upgraded.hosts["gpu-2"]["model_store_endpoint"] = f"http://127.0.0.1:{closed_port()}"
    assert upgraded.failed("site") == {"gpu-2", "gpu-3"}
    assert upgraded.serves() == {"gpu-1": 2, "gpu-2": 1, "gpu-3": 1}

    # The first host of this batch has nothing to do and does not fail, so Ansible itself would go on.
    recap = upgraded.run("site", "-e", "rollout_serial=2")
    assert upgraded.status == 2
    assert {host for host in recap if recap[host]["failed"]} == {"gpu-2"}
    assert "gpu-2 failed, so no further batch is begun; gpu-3 and the hosts after them are as they were" in " ".join(
        upgraded.output.split()
    )
    assert upgraded.serves() == {"gpu-1": 2, "gpu-2": 1, "gpu-3": 1}
    assert upgraded.generations("gpu-3") == [1, 2]

    recap = upgraded.run("site", "-e", "rollout_serial=2", "-e", "rollout_policy=each")
    assert {host for host in recap if recap[host]["failed"]} == {"gpu-2"}
    assert upgraded.serves() == {"gpu-1": 2, "gpu-2": 1, "gpu-3": 2}


def test_each_goes_on_up_to_a_share_of_failures(upgraded: Hosts) -> None:
    upgraded.variables |= {"rollout_policy": "each", "rollout_max_fail_percentage": 20}
    upgraded.hosts["gpu-2"]["model_store_endpoint"] = f"http://127.0.0.1:{closed_port()}"
    upgraded.run("site")
    assert upgraded.status == 2
    assert upgraded.serves() == dict.fromkeys(upgraded.hosts, 1)
    assert upgraded.failed("site", "-e", "rollout_max_fail_percentage=34") == {"gpu-2"}
    assert upgraded.serves() == {"gpu-1": 2, "gpu-2": 1, "gpu-3": 2}


def test_a_playbook_of_several_rollouts(upgraded: Hosts) -> None:
    """Each goes by the settings of its own hosts."""
    upgraded.hosts["gpu-1"] |= {"rollout_policy": "each", "rollout_serial": 1}
    upgraded.hosts["gpu-3"]["model_store_endpoint"] = f"http://127.0.0.1:{closed_port()}"
    site = "gpufleet.models.site"
    plays = [{"import_playbook": site, "vars": {"model_hosts": hosts}} for hosts in ("gpu-1", "gpu-2:gpu-3")]
    playbook = upgraded.directory / "own.yml"
    playbook.write_text(json.dumps(plays), encoding="utf-8")
    assert upgraded.failed(str(playbook)) == {"gpu-2", "gpu-3"}
    assert upgraded.serves() == {"gpu-1": 2, "gpu-2": 1, "gpu-3": 1}


# Hooks.


@pytest.fixture
def hooked(upgraded: Hosts) -> Hosts:
    for kind in ("before", "after"):
        upgraded.hook(kind)
    return upgraded


FORTH = ["before 1 to 2, 1", "after 1 to 2, 2"]


def test_hooks_run_when_another_generation_is_served(hooked: Hosts) -> None:
    assert hooked.failed("site", "--check") == set()
    assert "around the switch from generation 1 to the new one" in " ".join(hooked.output.split())
    assert [hooked.hooked(host) for host in hooked.hosts] == [[], [], []]

    assert hooked.failed("site") == set()
    assert [hooked.hooked(host) for host in hooked.hosts] == [FORTH, FORTH, FORTH]
    assert hooked.changed("site") == 0
    assert [hooked.hooked(host) for host in hooked.hosts] == [[], [], []]


def test_an_after_hook_that_fails_takes_all_back(hooked: Hosts) -> None:
    (hooked.root_of("gpu-2") / "after-fails").touch()
    assert hooked.failed("site") == ALL
    assert hooked.serves() == dict.fromkeys(hooked.hosts, 1)
    back = ["before 2 to 1, back, 2", "after 2 to 1, back, 1"]
    assert hooked.hooked("gpu-1") == [*FORTH, *back]
    # This one is drained as it is.
    assert hooked.hooked("gpu-2") == [*FORTH, back[1]]
    message = hooked.message("gpu-2")
    why = message[: message.index(" - checked: ")]
    # In between stands what Ansible says of a command that fails, each version in its own words.
    assert why.startswith(f"{hooked.inventory.parent}/after.yml: Note the after hook: ")
    assert why.endswith(" (the after hook broke)")
    assert message == f"{why} - checked: generation 1 is whole and served as before, but on the way back: {why}"
    assert hooked.message("gpu-1") == (
        f"gpu-2 failed ({why}), and these hosts serve a generation together or not at all - checked: generation 1 is "
        "whole and served as before; generation 2 is ready here, not served; mend that and run this again, it goes on "
        "from there"
    )

    # Where the hook failed on the way back as well, it runs although nothing is switched.
    (hooked.root_of("gpu-2") / "after-fails").unlink()
    for host in hooked.hosts:
        hooked.hooked(host)
    assert hooked.failed("site") == set()
    assert hooked.serves() == dict.fromkeys(hooked.hosts, 2)
    assert [hooked.hooked(host) for host in hooked.hosts] == [FORTH, FORTH, FORTH]


def test_what_cannot_be_removed_is_told_with_the_rest(hooked: Hosts) -> None:
    """Whoever holds the store's lock meanwhile keeps the way back from removing what was staged."""
    hooked.hosts = {"gpu-1": {**hooked.hosts["gpu-1"], "model_store_lock_timeout": 1}}
    holding = hooked.inventory.parent / "before.yml"
    hold = {
        "name": "Hold the lock",
        "ansible.builtin.shell": "setsid flock .lock sleep 30 >/dev/null 2>&1 & sleep 1; exit 1",
    }
    holding.write_text(json.dumps([{**hold, "args": {"chdir": "{{ model_store_root }}"}}]), encoding="utf-8")
    assert hooked.failed("site") == {"gpu-1"}
    message = hooked.message("gpu-1")
    reason, _dash, checked = message.partition(" - checked: ")
    assert "Hold the lock" in reason
    assert checked.startswith("generation 1 is served as before, but on the way back: ")
    assert hooked.serves() == {"gpu-1": 1}
    assert hooked.generations("gpu-1") == [1, 2]


def test_with_each_only_the_host_that_failed_goes_back(hooked: Hosts) -> None:
    (hooked.root_of("gpu-2") / "after-fails").touch()
    assert hooked.failed("site", "-e", "rollout_policy=each") == {"gpu-2"}
    assert hooked.serves() == {"gpu-1": 2, "gpu-2": 1, "gpu-3": 2}
    assert [hooked.hooked(host) for host in ("gpu-1", "gpu-3")] == [FORTH, FORTH]


def test_a_before_hook_that_fails_lets_nobody_switch(hooked: Hosts) -> None:
    (hooked.root_of("gpu-2") / "before-fails").touch()
    assert hooked.failed("site") == ALL
    assert hooked.serves() == dict.fromkeys(hooked.hosts, 1)
    # What was drained is served again.
    for host in hooked.hosts:
        assert hooked.hooked(host) == [FORTH[0], "after 2 to 1, back, 1"]
    assert "the before hook broke" in hooked.message("gpu-3")


def test_a_first_deployment_whose_hook_fails_stays_served(hosts: Hosts) -> None:
    hosts.hook("after")
    (hosts.root_of("gpu-2")).mkdir()
    (hosts.root_of("gpu-2") / "after-fails").touch()
    assert hosts.failed("site") == ALL
    assert hosts.serves() == dict.fromkeys(hosts.hosts, 1)
    assert hosts.message("gpu-2").endswith("- checked: generation 1 is whole and served")
    first = ["after to 1, 1"]
    assert [hosts.hooked(host) for host in hosts.hosts] == [first, first, first]

    (hosts.root_of("gpu-2") / "after-fails").unlink()
    assert hosts.failed("site") == set()
    assert [hosts.hooked(host) for host in hosts.hosts] == [[], first, []]
    assert hosts.changed("site") == 0


@pytest.mark.parametrize("hook", ["after: [", "- name: A task\n  no.such.module:\n"], ids=["no YAML", "no module"])
def test_a_hook_that_cannot_be_read_is_told_first(hosts: Hosts, hook: str) -> None:
    hosts.variables["model_store_after_activate"] = "after.yml"
    assert hosts.failed("site") == ALL
    assert f"{hosts.inventory.parent}/after.yml: expected a file of tasks on the control node" in hosts.message("gpu-1")
    (hosts.inventory.parent / "after.yml").write_text(hook, encoding="utf-8")
    hosts.run("site")
    assert hosts.status != 0
    assert f"{hosts.inventory.parent}/after.yml" in hosts.output
    assert not any(hosts.root_of(host).exists() for host in hosts.hosts)


# A run that dies.


@pytest.mark.parametrize("kind", ["before", "after"])
def test_the_control_node_dies_between_the_phases(hooked: Hosts, kind: str) -> None:
    hooked.die_in(kind)
    assert hooked.serves() == dict.fromkeys(hooked.hosts, 1 if kind == "before" else 2)

    hooked.hub.stats.reset()
    assert hooked.failed("site") == set()
    assert hooked.hub.stats.requests() == 0
    assert hooked.serves() == dict.fromkeys(hooked.hosts, 2)
    for host in hooked.hosts:
        # What had been switched is drained and restarted once more.
        assert hooked.hooked(host) == [FORTH[0].replace(", 1", f", {1 if kind == 'before' else 2}"), FORTH[1]]
    assert hooked.changed("site") == 0


@pytest.mark.parametrize("kind", ["before", "after"])
def test_what_a_run_that_died_drained_is_served_again_where_the_next_stops_at_the_barrier(
    hooked: Hosts, kind: str
) -> None:
    hooked.die_in(kind)
    served = 1 if kind == "before" else 2
    hooked.hosts["gpu-3"] |= unreachable()
    # This one is as if that run had not begun on it, or had come to its end.
    (hooked.root_of("gpu-2") / "activation.json").unlink()
    assert hooked.failed("site") == ALL - ({"gpu-2"} if kind == "after" else set())
    drained = [] if kind == "before" else ["before 2 to 1, back, 2"]
    assert [hooked.hooked(host) for host in hooked.hosts] == [[*drained, "after 2 to 1, back, 1"], [], []]
    assert hooked.serves() == {"gpu-1": 1, "gpu-2": served, "gpu-3": served}
    assert hooked.noted() == {"gpu-3"}
    reason, _dash, checked = hooked.message("gpu-1").partition(" - checked: ")
    assert re.fullmatch(r"gpu-3 failed \(.*\), and these hosts serve a generation together or not at all", reason)
    assert checked == (
        "generation 1 is whole and served as before; generation 2 is ready here, not served; mend that and run this "
        "again, it goes on from there"
    )


def test_a_run_that_died_is_taken_up_with_another_lock_and_fails(hooked: Hosts) -> None:
    """What is served then is the generation from before the run that died, and the hooks are told so."""
    del hooked.hosts["gpu-3"]
    hooked.die_in("after")
    hooked.upgrade("third")
    (hooked.root_of("gpu-2") / "before-fails").touch()
    assert hooked.failed("site") == set(hooked.hosts)
    assert hooked.serves() == dict.fromkeys(hooked.hosts, 1)
    for host in hooked.hosts:
        assert hooked.hooked(host) == ["before 1 to 3, 2", "after 3 to 1, back, 1"]
        assert "generation 1 is whole and served as before" in hooked.message(host)
    assert hooked.noted() == set()


def test_what_another_run_has_done_since_stays(hooked: Hosts) -> None:
    """It takes this one for a run that died, and comes to its end while this one runs its hook."""
    del hooked.hosts["gpu-2"], hooked.hosts["gpu-3"]
    root = {"root": "{{ model_store_root }}"}
    tasks = [
        {"name": "Serve it", "gpufleet.models.model_generation": {**root, "generation": 2}},
        {"name": "End well", "gpufleet.models.model_activation": {**root, "state": "absent"}},
        {"name": "Say no", "ansible.builtin.fail": {"msg": "the load balancer said no"}},
    ]
    (hooked.inventory.parent / "before.yml").write_text(json.dumps(tasks), encoding="utf-8")
    assert hooked.failed("site") == {"gpu-1"}
    assert hooked.serves() == {"gpu-1": 2}
    assert hooked.hooked("gpu-1") == []
    assert hooked.message("gpu-1").endswith("the load balancer said no - checked: generation 2 is whole and served")


def test_a_host_dies_after_the_switch_of_others(upgraded: Hosts) -> None:
    """The hook before the switch is the last that is heard of it."""
    hook = upgraded.inventory.parent / "before.yml"
    dies = {name: str(value) for name, value in unreachable().items()}
    hook.write_text(
        json.dumps([{"name": "Die", "ansible.builtin.set_fact": dies, "when": "inventory_hostname == 'gpu-3'"}]),
        encoding="utf-8",
    )
    upgraded.variables["model_store_before_activate"] = str(hook)
    assert upgraded.failed("site") == ALL
    assert upgraded.serves() == dict.fromkeys(upgraded.hosts, 1)
    assert "gpu-3 failed (" in upgraded.message("gpu-1")
    assert "generation 2 is ready here, not served" in upgraded.message("gpu-1")

    hook.write_text("[]", encoding="utf-8")
    assert upgraded.failed("site") == set()
    assert upgraded.serves() == dict.fromkeys(upgraded.hosts, 2)


# The way back.


def test_the_fleet_goes_back_and_shows_what_it_serves(hooked: Hosts) -> None:
    hooked.serve()
    assert hooked.failed("rollback", "--check") == set()
    assert hooked.failed("rollback", "-e", "model_hosts=gpu-1") == set()
    assert hooked.output.count("serves generation 1: small") == 1
    assert hooked.serves() == {"gpu-1": 1, "gpu-2": 2, "gpu-3": 2}
    assert hooked.hooked("gpu-1") == ["before 2 to 1, 2", "after 2 to 1, 1"]

    assert hooked.failed("rollback", "-e", "model_store_generation=1") == set()
    assert hooked.output.count("serves generation 1: small") == 3
    assert hooked.serves() == dict.fromkeys(hooked.hosts, 1)
    assert [len(hooked.hooked(host)) for host in hooked.hosts] == [0, 2, 2]


def test_nobody_goes_back_unless_all_can(upgraded: Hosts) -> None:
    upgraded.serve()
    damaged = upgraded.root_of("gpu-2") / "generations/1/small/vocab.txt"
    damaged.unlink()
    assert upgraded.failed("rollback") == ALL
    assert upgraded.serves() == dict.fromkeys(upgraded.hosts, 2)
    assert "generation 1 is damaged" in upgraded.message("gpu-2")
    message = upgraded.message("gpu-1")
    assert message.startswith("gpu-2 failed (generation 1 is damaged")
    assert "generation 2 is served as before; generation 1 is ready here, not served" in message

    assert upgraded.failed("rollback", "-e", "model_store_generation=7") == ALL
    assert "7" in upgraded.message("gpu-3")
    assert upgraded.failed("rollback", "-e", "rollout_policy=each") == {"gpu-2"}
    assert upgraded.serves() == {"gpu-1": 1, "gpu-2": 2, "gpu-3": 1}


# What is given.


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"rollout_policy": "both"}, "rollout_policy: expected together or each, found both"),
        ({"rollout_serial": [1, "some"]}, "rollout_serial: expected a number of hosts from 1"),
        ({"rollout_serial": 0}, "rollout_serial: expected a number of hosts from 1"),
        (
            {"rollout_max_fail_percentage": 101},
            "rollout_max_fail_percentage: expected a number from 0 to 100, found 101",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_variables(hosts: Hosts, given: dict[str, Any], sentence: str) -> None:
    hosts.run("site", "-e", json.dumps(given))
    assert hosts.status != 0
    assert sentence in " ".join(hosts.output.split())
    assert not any(hosts.root_of(host).exists() for host in hosts.hosts)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("rollout_policy", "each", "together, each"),
        ("rollout_serial", [1, "50%"], "100%, [1, '50%']"),
        ("rollout_max_fail_percentage", 0, "none, 0"),
    ],
    ids=lambda value: value if str(value).startswith("rollout") else "",
)
def test_variables_that_differ_by_host(upgraded: Hosts, name: str, value: Any, found: str) -> None:
    upgraded.hosts["gpu-3"][name] = value
    assert upgraded.failed("rollback") == {"gpu-1"}
    assert upgraded.message("gpu-1").startswith(f"{name}: expected the same on all hosts of the play, found {found}; ")
    assert upgraded.serves() == dict.fromkeys(upgraded.hosts, 1)


@pytest.mark.parametrize("playbook", sorted(path.stem for path in (CHECKOUT / "playbooks").glob("*.yml")))
def test_hosts_that_there_are_not(hosts: Hosts, playbook: str) -> None:
    hosts.run(playbook, "-e", "model_hosts=embeding")
    assert hosts.status != 0
    assert "model_hosts: embeding matches no host of the inventory" in " ".join(hosts.output.split())


def test_a_lock_that_is_none(upgraded: Hosts) -> None:
    lock = upgraded.lock_file.read_text(encoding="utf-8")
    upgraded.lock_file.write_text(f"<<<<<<< HEAD\n{lock}=======\n", encoding="utf-8")
    assert upgraded.failed("site") == ALL
    assert upgraded.message("gpu-1").startswith(f"{upgraded.lock_file}: not valid JSON")
    assert upgraded.generations("gpu-1") == [1]


def test_a_group_without_its_model_in_the_lock(hosts: Hosts) -> None:
    hosts.hosts["gpu-3"]["model_store_models"] = ["huge"]
    recap = hosts.run("site")
    assert hosts.status == 2
    assert {host for host in recap if recap[host]["failed"]} == {"gpu-3"}
    assert "huge of model_store_models not found; it has small" in hosts.message("gpu-3")
    assert "gpu-3 failed, so no further batch is begun" in " ".join(hosts.output.split())
    assert not any(hosts.root_of(host).exists() for host in hosts.hosts)

    assert hosts.failed("site", "-e", "rollout_policy=each") == {"gpu-3"}
    assert hosts.serves() == {"gpu-1": 1, "gpu-2": 1, "gpu-3": None}

    del hosts.hosts["gpu-3"]["model_store_models"]
    assert hosts.failed("site") == set()
    assert hosts.serves() == dict.fromkeys(hosts.hosts, 1)
