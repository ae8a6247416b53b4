# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all unit tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ansible_collections.gpufleet.models.plugins.module_utils._store import Store

# Examples with files take as long as the disk takes, and each makes its own place for them.
settings.register_profile(
    "gpufleet",
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("gpufleet")


@pytest.fixture
def alarm() -> Iterator[None]:
    """End a test that would go on for ever."""

    def wake(*_arguments: object) -> None:
        raise TimeoutError("still at it")

    former = signal.signal(signal.SIGALRM, wake)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    with Store.create(str(tmp_path / "store")) as store:
        yield store
