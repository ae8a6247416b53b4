# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which hosts the table on a terminal shows."""

from __future__ import annotations

import os
import pty
import struct
import termios
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pytest
from ansible import constants as C  # noqa: N812
from ansible.utils.display import Display

from ansible_collections.gpufleet.models.plugins.plugin_utils import _screen
from ansible_collections.gpufleet.models.plugins.plugin_utils._progress_text import Row
from ansible_collections.gpufleet.models.plugins.plugin_utils._screen import Screen


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run on a terminal, and where its processes leave what they know of their hosts."""
    terminal, stderr = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    monkeypatch.setattr(_screen, "_STDERR", stderr)
    monkeypatch.setattr(C, "DEFAULT_LOCAL_TMP", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm")
    yield tmp_path / "gpufleet-progress"
    os.close(stderr)
    os.close(terminal)


def test_host_that_never_drew_is_done(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it left in the second after another host's result is drawn by others, and goes with it."""
    ended, silent, going = (Screen(Display(), host) for host in ("gpu-1", "gpu-2", "gpu-3"))
    ended.show(Row("receiving"))
    ended.close()
    silent.show(Row("receiving"))
    os.utime(run / "quiet", (0, 0))
    going.show(Row("receiving"))
    assert "gpu-2" in capsys.readouterr().err
    silent.close()
    os.utime(run / "quiet", (0, 0))
    going.show(Row("receiving"))
    drawn = capsys.readouterr().err
    assert "gpu-3" in drawn
    assert "gpu-2" not in drawn


def test_row_that_a_full_disk_left_empty(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, going = (Screen(Display(), host) for host in ("gpu-1", "gpu-2"))
    full.show(Row("receiving"))
    for path in run.glob("*.json"):
        path.write_bytes(b"")
    going.show(Row("receiving"))
    assert "gpu-2" in capsys.readouterr().err


def test_host_that_has_shown_nothing_leaves_the_others_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    going, soon = (Screen(Display(), host) for host in ("gpu-1", "gpu-2"))
    going.show(Row("receiving"))
    capsys.readouterr()
    soon.close()
    assert capsys.readouterr().err == ""
    going.show(Row("receiving"))
    assert "gpu-1" in capsys.readouterr().err
    assert not (run / "quiet").exists()
