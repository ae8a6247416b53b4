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
      - Whoever wants to stage or repair waits for one that does so already for as long as it takes, and shows how far
        it is; with C(async) this limit counts there as well.
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
