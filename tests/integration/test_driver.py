# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role cuda_driver where there is nothing for it to do; what it does elsewhere is tested on the test hosts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.fleet import recap
from tests.integration.harness import CHECKOUT, environment


@pytest.mark.parametrize("variables", [{}, {"cuda_driver_version": "580"}, {"cuda_driver_state": "absent"}], ids=str)
@pytest.mark.parametrize("mode", [[], ["--check", "--diff"]], ids=["run", "check"])
def test_a_host_without_a_gpu_is_left_alone(tmp_path: Path, variables: dict[str, Any], mode: list[str]) -> None:
    record = tmp_path / "record.json"
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {
            "ansible_python_interpreter": sys.executable,
            "cuda_driver_root": str(tmp_path / "no-hardware"),
            "cuda_driver_record": str(record),
            # Nobody is asked.
            "cuda_driver_repository": "http://127.0.0.1:1",
            **variables,
        },
        "roles": ["gpufleet.models.cuda_driver"],
    }
    playbook = tmp_path / "play.yml"
    playbook.write_text(yaml.safe_dump([play]), encoding="utf-8")
    process = subprocess.run(
        ["ansible-playbook", "-vvv", "-i", "localhost,", str(playbook), *mode],
        env=environment(tmp_path, ANSIBLE_COLLECTIONS_PATH=str(CHECKOUT / ".collections")),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert recap(process)["changed"] == 0
    # It costs next to nothing to find out that there is nothing to do.
    modules = re.findall(r"^Using module file \S+/(\w+)\.py", process.stdout, re.MULTILINE)
    assert modules == ["cuda_driver_plan"]
    assert not record.exists()
