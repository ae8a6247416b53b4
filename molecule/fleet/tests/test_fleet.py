# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What happens to a fleet whose hosts do not all do what they should, one case after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts.models import TINY, tiny
from tests.hosts.scenario import Scenario
from tests.hub import Hub
from tests.hub.faults import Flip

HOSTS = [f"light-{number:02}" for number in range(1, 13)]
BAD, GONE = "light-05", "light-09"
GOOD = [name for name in HOSTS if name not in (BAD, GONE)]


@pytest.fixture(scope="module")
def first(scenario: Scenario) -> dict[str, str]:
    """What all hosts serve from the start: SHA-256 by path."""
    return scenario.locked()


@pytest.fixture(scope="module")
def second(scenario: Scenario, hub: Hub, first: dict[str, str]) -> dict[str, str]:
    """What they are to serve then; the lock has it."""
    hub.repositories[TINY].add_commit(tiny(scenario.directory / "models", 2))
    scenario.relock(hub)
    assert scenario.locked() != first
    return scenario.locked()


@pytest.fixture(scope="module")
def partly_corrupt(hub: Hub) -> Iterator[str]:
    """The endpoint of the Hub, and for one host that of a Hub that sends a wrong bit."""
    with Hub(address=hub.address) as corrupt:
        corrupt.repositories.update(hub.repositories)
        corrupt.faults.add(Flip(offset=1000, path="*/model-00002-of-00003.safetensors"))
        yield f"{{{{ '{corrupt.endpoint}' if inventory_hostname == '{BAD}' else '{hub.endpoint}' }}}}"


def served(scenario: Scenario, *names: str) -> dict[str, dict[str, str]]:
    """Return what hosts serve: SHA-256 by path."""
    stores = scenario.stores(*names)
    return {name: store["generations"][store["current"].partition("/")[2]] for name, store in stores.items()}


def test_from_the_start(scenario: Scenario, first: dict[str, str]) -> None:
    assert list(scenario.hosts) == HOSTS
    assert served(scenario) == dict.fromkeys(HOSTS, first)


def test_together(scenario: Scenario, first: dict[str, str], second: dict[str, str], partly_corrupt: str) -> None:
    """One host cannot have the new model, so none serves it."""
    play = scenario.play("site", model_store_endpoint=partly_corrupt)
    assert play.status != 0
    assert {name: play.ended(name) for name in HOSTS} == dict.fromkeys(HOSTS, "failed")
    assert "SHA-256" in play.why(BAD)
    for name in GOOD:
        assert f"{BAD} failed" in play.why(name)
    assert served(scenario) == dict.fromkeys(HOSTS, first)


def test_each(scenario: Scenario, first: dict[str, str], second: dict[str, str], partly_corrupt: str) -> None:
    """In batches of five, each host alone: one cannot have the new model, one cannot be reached, the others go on."""
    scenario.power_off(GONE)
    play = scenario.play("site", model_store_endpoint=partly_corrupt, rollout_policy="each", rollout_serial=5)
    assert play.status != 0
    ends = {**dict.fromkeys(GOOD, "ok"), BAD: "failed", GONE: "unreachable"}
    assert {name: play.ended(name) for name in HOSTS} == ends
    assert "SHA-256" in play.why(BAD)
    assert play.output.count("PLAY [Make the hosts ready, then hold and serve the locked models]") == 3
    scenario.power_on(GONE)
    assert served(scenario) == {**dict.fromkeys(GOOD, second), BAD: first, GONE: first}


def test_the_next_run_does_the_rest(scenario: Scenario, hub: Hub, second: dict[str, str]) -> None:
    hub.stats.reset()
    play = scenario.ok("site", model_store_endpoint=hub.endpoint)
    assert [name for name in HOSTS if play.recap(name)["changed"]] == [BAD, GONE]
    assert served(scenario) == dict.fromkeys(HOSTS, second)


def test_bit_rot(scenario: Scenario, hub: Hub, second: dict[str, str]) -> None:
    """A bit has flipped on three hosts: verification finds these three, and repair mends them."""
    rotten = ["light-02", "light-07", "light-12"]
    for name in rotten:
        scenario.hosts[name].damage("/opt/models/current/tiny/model-00003-of-00003.safetensors", 5000)
    play = scenario.play("verify")
    assert play.status != 0
    assert [name for name in HOSTS if play.ended(name) != "ok"] == rotten
    for name in rotten:
        assert "model-00003-of-00003.safetensors" in play.why(name)

    hub.stats.reset()
    play = scenario.ok("verify", model_store_verify_repair=True, model_store_endpoint=hub.endpoint)
    assert [name for name in HOSTS if play.recap(name)["changed"]] == rotten
    assert hub.stats.requests("cdn", "GET", "*") == len(rotten)
    assert served(scenario) == dict.fromkeys(HOSTS, second)


def test_prune(scenario: Scenario, second: dict[str, str]) -> None:
    scenario.ok("prune", model_store_keep=1)
    for name, store in scenario.stores().items():
        assert list(store["generations"].values()) == [second], name
        assert set(store["blobs"]) == set(second.values())
        assert store["partial"] == []
