# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  connections:
    description:
      - How many connections to use at once, 1 to 64. They share the blocks of all files.
    type: int
    default: 8
  stall_timeout:
    description:
      - Seconds after which a connection that delivered less than 256 KiB is given up and its request repeated.
    type: float
    default: 30.0
  timeout:
    description:
      - Seconds that everything may take, hashing too. What was received by then is kept; the next run goes on from
        there.
      - By default there is no limit.
    type: float
  retries:
    description:
      - How often a request is repeated in a row without receiving 256 KiB. The waiting time grows each time; when a
        server says how long to wait, that counts.
    type: int
    default: 5
"""
