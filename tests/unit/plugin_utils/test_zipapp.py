# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Making one file of a part of the engine."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ansible_collections.gpufleet.models.plugins.plugin_utils._zipapp import build, needed


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine of which a part is needed."""
    files = {
        "_entry": "from ._words import HELLO\n\ndef main():\n    print(HELLO, __package__)\n    return 3\n",
        "_words": "import json\n\nfrom ._deep import WORD\n\nHELLO = json.loads(WORD)\n",
        "_deep": "import typing\n\nif typing.TYPE_CHECKING:\n    from ._words import HELLO\n\nWORD = '\"grüße\"'\n",
        "_other": "from ansible.module_utils.basic import AnsibleModule\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    return tmp_path


def test_what_is_needed_and_nothing_else_runs_by_itself(engine: Path, tmp_path: Path) -> None:
    assert needed("_entry", engine) == ["_deep", "_entry", "_words"]
    program = tmp_path / "elsewhere" / "program"
    program.parent.mkdir()
    program.write_bytes(build("_entry", engine))
    done = subprocess.run(
        [sys.executable, "-I", str(program)], capture_output=True, check=False, cwd="/", env={"LC_ALL": "C.UTF-8"}
    )
    assert (done.returncode, done.stdout.decode(), done.stderr) == (3, "grüße gpufleet_models\n", b"")


def test_the_same_sources_give_the_same_bytes(engine: Path) -> None:
    first = build("_entry", engine)
    for path in engine.glob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o444)
    assert build("_entry", engine) == first
    (engine / "_deep.py").chmod(0o644)
    (engine / "_deep.py").write_text("WORD = '1'\n")
    assert build("_entry", engine) != first


def test_the_verifier_has_the_engine_as_it_is(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(build("_verifier"))
    engine = Path(__file__).parents[3] / "plugins" / "module_utils"
    with zipfile.ZipFile(program) as archive:
        for name in needed("_verifier"):
            assert archive.read(f"gpufleet_models/{name}.py") == (engine / f"{name}.py").read_bytes()


def test_ansible_is_refused(engine: Path) -> None:
    (engine / "_deep.py").write_text("from ._other import AnsibleModule\n")
    with pytest.raises(ValueError, match=r"_other\.py imports ansible\.module_utils\.basic, expected nothing"):
        build("_entry", engine)
