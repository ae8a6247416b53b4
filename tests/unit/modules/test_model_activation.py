# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""model_activation: the next run finds what this one was about to serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.gpufleet.models.plugins.modules import model_activation, model_store_info
from tests.unit.modules.conftest import Run


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("previous", [7, None])
@pytest.mark.usefixtures("store")
def test_what_is_noted_is_found(run: Run, root: Path, previous: int | None, check: bool) -> None:
    arguments = {"root": str(root), "generation": 8, **({} if previous is None else {"previous_generation": previous})}
    expected = {"generation": 8, "previous_generation": previous}
    for changed in (True, check):
        result = run(model_activation, check=check, **arguments)
        assert (result["changed"], result["activation"]) == (changed, expected)
        assert run(model_store_info, root=str(root))["activation"] == (None if check else expected)


@pytest.mark.parametrize("kind", ["note", "half a note", "link", "directory"])
@pytest.mark.usefixtures("store")
def test_whatever_is_there_is_replaced_and_removed(run: Run, root: Path, tmp_path: Path, kind: str) -> None:
    note, outside = root / "activation.json", tmp_path / "precious"
    outside.write_text("precious", encoding="utf-8")

    def put() -> None:
        if kind == "link":
            note.symlink_to(outside)
        elif kind == "directory":
            (note / "below").mkdir(parents=True)
        else:
            note.write_text('{"generation": 1, "previous_generation": null}'[: None if kind == "note" else 9])

    for arguments in ({"generation": 2, "previous_generation": 1}, {"state": "absent"}):
        put()
        assert run(model_store_info, root=str(root))["activation"] is not None
        assert run(model_activation, check=True, root=str(root), **arguments)["changed"]
        assert run(model_activation, root=str(root), **arguments)["changed"]
        assert not run(model_activation, root=str(root), **arguments)["changed"]
        assert note.is_file() is ("generation" in arguments)
        assert not note.is_symlink()
        note.unlink(missing_ok=True)
    assert outside.read_text(encoding="utf-8") == "precious"


def test_without_a_store_there_is_nothing_to_note(run: Run, root: Path) -> None:
    assert not run(model_activation, root=str(root), state="absent")["changed"]
    result = run(model_activation, root=str(root), generation=1)
    assert result["failed"]
    assert str(root) in result["msg"]
    assert not root.exists()
