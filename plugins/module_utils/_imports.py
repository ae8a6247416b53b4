# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tests that an environment must pass before it is served: imports, and torch's word about its GPUs."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from ._cuda import Driver, driver_problem
from ._errors import PythonError
from ._process import Limit, run_program, status_name

# Runs in the environment. What modules print goes elsewhere, and a crash leaves the name of the one that crashed.
_SCRIPT = """
import importlib, json, os, sys
report = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
def tell(**what):
    print(json.dumps(what), file=report, flush=True)
for name in sys.argv[1:]:
    tell(importing=name)
    try:
        importlib.import_module(name)
    except BaseException as error:
        tell(failed=name, error=f"{type(error).__name__}: {error}")
        sys.exit()
torch = sys.modules.get("torch")
if torch is not None:
    tell(importing="torch.cuda")
    try:
        tell(cuda=torch.version.cuda, available=bool(torch.cuda.is_available()))
    except BaseException as error:
        tell(failed="torch.cuda", error=f"{type(error).__name__}: {error}")
        sys.exit()
tell(done=True)
"""


def try_environment(
    directory: str,
    imports: Sequence[str],
    torch_cuda: str | None,
    driver: Driver | None,
    limit: Limit,
    inherit: Iterable[int] = (),
) -> None:
    """Import modules with an environment's Python, and require that a torch for CUDA agrees with the driver.

    :param imports: Names of modules.
    :param torch_cuda: The CUDA version that the environment's torch was built for, or None.
    :param inherit: Descriptors that the environment's Python gets, as importing writes to the environment.
    :raises PythonError: When something does not work.
    """
    _refuse(driver_problem(torch_cuda, driver))
    names = [*(["torch"] if torch_cuda and "torch" not in imports else []), *imports]
    if not names:
        return
    # What hides GPUs from a service does not hide them from this test; nor do modules come from elsewhere.
    hidden = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
    environ = {name: value for name, value in os.environ.items() if name not in hidden}
    python = os.path.join(directory, "bin", "python")
    ended = run_program([python, "-I", "-c", _SCRIPT, *names], environ, directory, limit, inherit=inherit)
    events = _events(ended.output)
    last = events[-1] if events else {}
    if "failed" in last:
        raise PythonError(f"import {last['failed']} failed with {_one_line(last['error'])}")
    if "done" not in last:
        where = f"import {last['importing']}" if "importing" in last else python
        raise PythonError(
            f"{where} ended with {status_name(ended.status)}: {_one_line(ended.errors) or 'it said nothing'}"
        )
    told = next((event for event in events if "available" in event), None)
    if torch_cuda is None or driver is None or told is None:
        return
    _refuse(driver_problem(told["cuda"], driver))
    if driver.gpus and not told["available"]:
        raise PythonError(
            f"torch for CUDA {told['cuda']} found no usable GPU, expected {driver.gpus} with driver {driver.version}: "
            f"{_one_line(ended.errors) or 'torch.cuda.is_available() is false'}"
        )


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise PythonError(problem)


def _events(output: str) -> list[dict[str, Any]]:
    events = []
    for line in output.splitlines():
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    return events


def _one_line(text: str) -> str:
    """Return the end of what a program said, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"…{line[-300:]}"
