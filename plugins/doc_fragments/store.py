# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  root:
    description:
      - The store, an absolute path. Everything below it belongs to this collection.
    type: path
    default: /opt/models
requirements:
  - Python 3.9 or later on the host; nothing else.
  - A local filesystem with hard links for the store.
"""
