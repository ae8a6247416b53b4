# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A local index of Python packages (PEP 503) with small wheels and faults, for the real uv."""

from __future__ import annotations

from .server import Index
from .wheels import Wheel

__all__ = ["Index", "Wheel"]
