# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who could replace what runs with our rights."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._trust import require_trusted

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="files are given to another account, which needs root")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program, two directories below one that is ours."""
    program = tmp_path / "bin" / "deep" / "program"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    for path in (program.parent, program.parent.parent):
        path.chmod(0o755)
    return program


def check_refused(path: Path, culprit: Path, words: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{re.escape(str(culprit))} {words}.*account's rights; choose another"):
        require_trusted(str(path))


def test_what_is_ours(program: Path) -> None:
    require_trusted(str(program))
    require_trusted(str(program.parent / ".." / "deep" / "." / "program"))
    require_trusted(str(program.parent / "not-there-yet" / "at-all"))
    link = program.parent / "link"
    link.symlink_to(program)
    (program.parent / "relative").symlink_to("../deep/link")
    require_trusted(str(program.parent / "relative"))


@pytest.mark.parametrize("above", [0, 1, 2])
def test_what_everybody_can_write(program: Path, above: int) -> None:
    culprit = [program, *program.parents][above]
    culprit.chmod(0o777)
    check_refused(program, culprit, "can be written by everybody")


def test_relative_paths_begin_here(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program.chmod(0o777)
    monkeypatch.chdir(program.parent)
    check_refused(Path("program"), program, "can be written by everybody")


def test_directories_where_nobody_can_replace_what_others_have(program: Path) -> None:
    program.parent.chmod(0o1777)
    require_trusted(str(program))
    # It means nothing for a file.
    program.chmod(0o1777)
    check_refused(program, program, "can be written by everybody")


@needs_root
def test_what_another_group_can_write(program: Path) -> None:
    program.parent.chmod(0o775)
    require_trusted(str(program))  # the group is ours
    os.chown(program.parent, -1, NOBODY)
    check_refused(program, program.parent, "can be written by the group ")


@needs_root
@pytest.mark.parametrize("above", [0, 1, 2])
def test_what_belongs_to_others(program: Path, above: int) -> None:
    culprit = [program, *program.parents][above]
    os.chown(culprit, NOBODY, -1)
    check_refused(program, culprit, "belongs to nobody")


@needs_root
def test_what_lies_behind_a_link(program: Path) -> None:
    theirs = program.parent.parent / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, -1)
    (theirs / "program").touch()
    link = program.parent / "link"
    link.symlink_to("../theirs/program")
    check_refused(link, theirs, "belongs to nobody")
    # Theirs is also the link itself, in a directory where everybody may make some.
    program.parent.chmod(0o1777)
    link.unlink()
    link.symlink_to(program)
    os.chown(link, NOBODY, -1, follow_symlinks=False)
    check_refused(link, link, "belongs to nobody")


def test_links_in_a_circle(program: Path) -> None:
    link = program.parent / "link"
    link.symlink_to("link")
    with pytest.raises(OSError, match="symbolic links"):
        require_trusted(str(link))
