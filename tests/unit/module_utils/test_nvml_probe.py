# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where there is no NVML, the probe says so, and it looks in more than one place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._nvml_probe import LIBRARIES, probe
from tests import nvml


@pytest.mark.parametrize(
    ("library", "reason"),
    [("libno-such-library.so.1", "libno-such-library.so.1 is not installed"), ("libc.so.6", "libc.so.6 is not NVML")],
)
def test_no_nvml(library: str, reason: str) -> None:
    answer = probe([library])
    assert answer.version is None
    assert (answer.reason or "").startswith(reason)


def ask(libraries: list[str], **variables: str) -> list[str | None]:
    """Probe in a process of its own: a library that was loaded once answers to its name ever after."""
    script = (
        "import json, sys\n"
        f"from {probe.__module__} import probe\n"
        "answer = probe(sys.argv[1:])\n"
        "print(json.dumps([answer.version, answer.reason, answer.elsewhere]))"
    )
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, *libraries]
    answer: list[str | None] = json.loads(
        subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    )
    return answer


def test_a_library_of_a_container(tmp_path: Path) -> None:
    path = str(nvml.build(tmp_path / "driver") / nvml.LIBRARY)
    working = nvml.write(nvml.host(nvml.H100), tmp_path / "working")
    assert ask(["libno-such-library.so.1", "/no/such/library", path], **working) == ["580.95.05", None, path]
    # One that does not work is no answer.
    broken = nvml.write(nvml.host(errors={"nvmlInit": 9}), tmp_path / "broken")
    version, reason, elsewhere = ask(["libno-such-library.so.1", path], **broken)
    assert (version, reason, elsewhere) == (None, "libno-such-library.so.1 is not installed", None)


def test_the_library_of_the_system_is_asked_first(tmp_path: Path) -> None:
    usual, other = (nvml.build(tmp_path / name) for name in ("usual", "other"))
    working = nvml.write(nvml.host(nvml.H100), tmp_path / "working")
    libraries = [nvml.LIBRARY, str(other / nvml.LIBRARY)]
    assert ask(libraries, **working, LD_LIBRARY_PATH=str(usual)) == ["580.95.05", None, None]
    assert all(Path(library).is_absolute() for library in LIBRARIES[1:])
