# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests of all scenarios share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts.models import add_models
from tests.hosts.scenario import GATEWAY, Scenario
from tests.hub import Hub


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    """The hosts and the inventory that Molecule has made."""
    return Scenario()


@pytest.fixture(scope="session")
def hub(scenario: Scenario) -> Iterator[Hub]:
    """A Hub that the hosts reach, with the models that the scenario's own one has, and with faults."""
    with Hub(address=GATEWAY) as hub:
        add_models(hub, scenario.directory / "models")
        yield hub
