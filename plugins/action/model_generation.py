# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.gpufleet.models.plugins.plugin_utils._work_action import WorkAction


class ActionModule(WorkAction):
    """Runs ``model_generation`` detached on the host, and shows how far it is."""
