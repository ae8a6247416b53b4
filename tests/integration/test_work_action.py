# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long a host that says nothing is waited for."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader

from ansible_collections.gpufleet.models.plugins.plugin_utils import _work_action


def test_limit_where_ssh_is_tried_again(tmp_path: Path) -> None:
    """Ansible's ssh takes whatever Exception for a connection that broke, and tries again without an alarm."""
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nexec sleep 2\n", encoding="utf-8")
    ssh.chmod(0o755)
    connection = connection_loader.get("ssh", PlayContext())
    connection.set_options(var_options={"ansible_host": "gpu-1", "ansible_ssh_retries": 2})
    connection.set_option("ssh_executable", str(ssh))
    with pytest.raises(_work_action._Silent), _work_action._limit(0.2):
        connection.exec_command("true", in_data=b"words", sudoable=False)
