# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What site.yml has left on the hosts, judged by their own programs and by a plain script that loads the model."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.hosts.scenario import CHECKOUT, Scenario

HOSTS = {"debian12": "12", "debian13": "13"}

# The first values of "Hello world" through all-MiniLM-L6-v2, as sentence-transformers publishes the model.
HELLO_WORLD = [-0.034477, 0.031023, 0.006735, 0.026109]


@pytest.mark.parametrize("name", HOSTS)
class TestHost:
    def test_is_what_it_is_called(self, scenario: Scenario, name: str) -> None:
        assert list(scenario.hosts) == list(HOSTS)
        system = scenario.hosts[name].testinfra.system_info
        assert (system.distribution, system.release.split(".")[0]) == ("debian", HOSTS[name])

    def test_serves_what_is_locked(self, scenario: Scenario, name: str) -> None:
        host = scenario.hosts[name]
        locked = scenario.locked("all-MiniLM-L6-v2", "tiny")
        assert len(locked) > 15
        assert host.current == "generations/1"
        assert host.sums() == locked
        assert host.sums("/srv/models/") == locked
        assert host.testinfra.file("/srv/models").linked_to == "/opt/models/generations/1"

    def test_shares_its_files_with_blobs_that_nobody_writes(self, scenario: Scenario, name: str) -> None:
        """A file that several models have is kept once."""
        host = scenario.hosts[name]
        locked = scenario.locked()
        listing = host.run("cd /opt/models/blobs && find . -type f ! -name '*.blocks' -printf '%%f %%m %%U %%n\\n'")
        blobs = {digest: rest for digest, *rest in (line.split() for line in listing.splitlines())}
        uses = Counter(locked.values())
        assert blobs == {digest: ["444", "0", str(1 + count)] for digest, count in uses.items()}
        directories = host.run("find /opt/models/generations/1/ -mindepth 1 -type d -printf '%%m\\n' | sort -u")
        assert directories == "755"

    def test_leaves_nothing_else(self, scenario: Scenario, name: str) -> None:
        host = scenario.hosts[name]
        assert host.run("ls -A /opt/models/generations") == "1"
        assert host.run("ls -A /opt/models/partial 2>/dev/null || true") == ""
        assert host.run("ls -A ~/.ansible/tmp 2>/dev/null || true") == ""
        assert host.run("pgrep --full --list-full [a]nsible || true") == ""
        failed = host.run("systemctl list-units --failed --plain --no-legend")
        assert failed == ""


def test_the_model_computes(scenario: Scenario) -> None:
    """The environment that the role made loads the model, and its output is the published one."""
    plain = (CHECKOUT / "tests/smoke/plain.py").read_text(encoding="utf-8")
    host = scenario.hosts["debian12"]
    answer = host.run("/opt/models/env/bin/python -c %s embedding=/srv/models/all-MiniLM-L6-v2", plain)
    outputs = json.loads(answer.splitlines()[-1])["outputs"]
    assert outputs[0][:4] == pytest.approx(HELLO_WORLD, abs=5e-6)


def test_what_was_tested_is_in_the_manifest(scenario: Scenario) -> None:
    """The host with an environment ran the model; the other one has neither a GPU nor an environment."""
    tested = scenario.hosts["debian12"].manifest()["smoke"]
    models = {model["name"]: model for model in tested["models"]}
    assert models["all-MiniLM-L6-v2"]["ok"] is True
    assert models["all-MiniLM-L6-v2"]["device"] == "CPU"
    assert models["tiny"]["skipped"] == "random tensors in the shape of a model"
    assert scenario.hosts["debian13"].manifest()["smoke"] is None


def test_packages_are_those_that_were_locked(scenario: Scenario) -> None:
    lock = (scenario.inventory.parent / "python.lock.txt").read_text(encoding="utf-8")
    found = scenario.hosts["debian12"].run(
        "/opt/models/env/bin/python -c %s",
        "from importlib.metadata import distributions as all\nfor one in all(): print(one.name.lower(), one.version)",
    )
    packages = dict(line.replace("_", "-").split() for line in found.splitlines())
    assert {"torch", "transformers", "nvidia-ml-py"} <= set(packages)
    assert [name for name, version in packages.items() if f"{name}=={version}" not in lock.lower()] == []
    assert scenario.hosts["debian13"].run("ls -d /opt/models/env* || true") == ""
