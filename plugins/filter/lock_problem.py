# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Judge a lock before any host is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import parse_lock

DOCUMENTATION = r"""
name: lock_problem
short_description: Tell why models cannot be taken from a lock
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Reads a lock that M(gpufleet.models.model_lock) made, on the control node, and looks whether it has the wanted
    models.
options:
  _input:
    description: The lock's path on the control node.
    type: path
    required: true
  models:
    description: The names of the wanted models.
    type: list
    elements: str
    default: []
seealso:
  - module: gpufleet.models.model_lock
"""

EXAMPLES = r"""
- name: Require a lock that has the wanted models
  ansible.builtin.assert:
    that: problem | length == 0
    fail_msg: "{{ problem }}"
  vars:
    problem: "{{ 'models.lock.json' | gpufleet.models.lock_problem(['all-MiniLM-L6-v2']) }}"
"""

RETURN = r"""
_value:
  description: The reason in one sentence, empty where there is none.
  type: str
  sample: "models.lock.json: lock_version: expected 1, found 2"
"""


def lock_problem(path: str, models: Iterable[str] = ()) -> str:
    """Return why the wanted models cannot be taken from a lock, or nothing."""
    try:
        locked = [model.name for model in parse_lock(Path(path).read_text(encoding="utf-8"), path)]
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return (
            f"{path}: expected the lock on the control node, found no file; "
            "make it with the playbook gpufleet.models.lock"
        )
    except (OSError, UnicodeDecodeError) as error:
        return f"{path}: expected a lock, which is UTF-8 text, found: {error}; restore it from version control"
    except InvalidInput as error:
        return str(error)
    unknown = [name for name in models if name not in locked]
    if unknown:
        return (
            f"{path}: {', '.join(unknown)} of model_store_models not found; it has {', '.join(locked)}; "
            "correct the names, or add them to the catalog and lock again"
        )
    return ""


class FilterModule:
    """The filter."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return it by its name."""
        return {"lock_problem": lock_problem}
