# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  lock_timeout:
    description:
      - Seconds to wait while another process writes to the store. A process that was killed blocks nobody.
      - Work that a run has left on the host, as its control node died or its connection broke, is waited for as long as
        it takes by whoever wants to stage or repair.
    type: float
    default: 60.0
  owner:
    description:
      - The user that whatever is made in the store shall belong to. By default that is the one who runs the module.
    type: str
  group:
    description:
      - The group that whatever is made in the store shall belong to.
    type: str
"""
