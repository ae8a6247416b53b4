# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make the verifier for hosts that verify by themselves."""

from __future__ import annotations

DOCUMENTATION = r"""
name: verifier
short_description: Make the program that verifies models without Ansible
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Puts the collection's own engine for M(gpufleet.models.model_verify) into one file that Python 3.9 or later runs by
    itself, and returns that file's path on the control node. The file is gone when Ansible ends.
  - The same version of the collection gives the same bytes everywhere.
options:
  _terms:
    description: None are expected.
seealso:
  - module: gpufleet.models.model_verify
"""

EXAMPLES = r"""
- name: Install the verifier
  ansible.builtin.copy:
    src: "{{ lookup('gpufleet.models.verifier') }}"
    dest: /usr/local/lib/gpufleet-verify.pyz
    mode: "0755"
"""

RETURN = r"""
_raw:
  description: The path of the program on the control node.
  type: list
  elements: path
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import ansible.constants as C  # noqa: N812
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.gpufleet.models.plugins.plugin_utils._zipapp import build


class LookupModule(LookupBase):  # type: ignore[misc]
    """The lookup."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Make the program, unless it was made for another host of this run."""
        if terms or kwargs:
            raise AnsibleLookupError("verifier: expected no terms and no options")
        path = Path(C.DEFAULT_LOCAL_TMP, "gpufleet-verify.pyz")
        if not path.exists():
            # Several hosts may be here at once, each in a process of its own.
            descriptor, temporary = tempfile.mkstemp(dir=C.DEFAULT_LOCAL_TMP)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(build("_verifier"))
            Path(temporary).replace(path)
        return [str(path)]
