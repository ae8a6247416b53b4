# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all modules do with the end of their work: a result, an error in one sentence, a signal."""

from __future__ import annotations

import errno
import os
import signal
import threading
from types import ModuleType
from typing import Any, Callable

import pytest
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.models.plugins.module_utils import _module
from ansible_collections.gpufleet.models.plugins.module_utils._blocks import check_cancelled
from ansible_collections.gpufleet.models.plugins.module_utils._errors import ModelsError
from tests.unit.modules.conftest import Run

Work = Callable[[threading.Event], dict[str, Any]]


def module_of(work: Work) -> ModuleType:
    """Return a module that does this work."""

    def main() -> None:
        _module.run_module(AnsibleModule(argument_spec=dict(_module.ROOT_ARGUMENT), supports_check_mode=True), work)

    module = ModuleType("module")
    module.main = main  # type: ignore[attr-defined]
    return module


def failing(error: Exception) -> Work:
    """Return work that fails."""

    def work(_cancelled: threading.Event) -> dict[str, Any]:
        raise error

    return work


def test_result(run: Run) -> None:
    result = run(module_of(lambda _cancelled: {"changed": True, "answer": 42}))
    assert (result["changed"], result["answer"]) == (True, 42)


def test_failed_result_keeps_what_it_says(run: Run) -> None:
    result = run(module_of(lambda _cancelled: {"failed": True, "msg": "two files are lost", "missing": ["a", "b"]}))
    assert (result["msg"], result["missing"]) == ("two files are lost", ["a", "b"])


def test_error_of_the_engine(run: Run) -> None:
    assert run(module_of(failing(ModelsError("that went wrong"))))["msg"] == "that went wrong"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_error_of_the_operating_system(run: Run, code: int) -> None:
    error = OSError(code, os.strerror(code), "blobs/53")
    result = run(module_of(failing(error)), root="/opt/models")
    assert result["msg"] == f"/opt/models: {os.strerror(code)} (blobs/53); what is served was left as it was"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_stops_the_work(run: Run, number: signal.Signals) -> None:
    def work(cancelled: threading.Event) -> dict[str, Any]:
        assert not cancelled.is_set()
        os.kill(os.getpid(), number)
        assert cancelled.wait(5)
        check_cancelled(cancelled)
        return {}

    assert run(module_of(work))["msg"].startswith("stopped by a signal")
