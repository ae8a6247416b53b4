# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How fast GPUs multiply by their datasheets, and below which speed one of them is called slow."""

from __future__ import annotations

import re
from dataclasses import dataclass

# The power limit keeps a product of large matrices below the datasheet's figure, the more so on cards of up to 150 W.
# These shares are what no healthy GPU is expected to fall below; they are estimated, not measured.
_SHARE = 0.4
_SHARE_OF_SMALL_CARDS = 0.25

# TFLOP/s of dense products of 16-bit numbers (bfloat16, or float16 on those without it), from NVIDIA's datasheets at
# https://www.nvidia.com/en-us/data-center/ (h100, h200, grace-hopper-superchip, hgx for B200, a100, a40, l4, l40, l40s,
# products/a30-gpu, products/a10-gpu, tesla-t4, v100) and https://www.nvidia.com/en-us/design-visualization/ (rtx-6000,
# rtx-a6000, rtx-a5000, rtx-a4000). Where a datasheet tells the figure with sparsity only, this is half of that.
_DATASHEETS: tuple[tuple[str, float, float], ...] = (
    ("B200", 2250, _SHARE),
    ("GH200( .+)?", 990, _SHARE),
    ("H200 NVL", 835.5, _SHARE),
    ("H200", 989.5, _SHARE),
    ("H100 NVL", 835.5, _SHARE),
    ("H100 PCIe", 756.5, _SHARE),
    ("H100 80GB HBM3", 989.5, _SHARE),
    (r"A100(-SXM4-\d+GB|-PCIE-40GB| 80GB PCIe)", 312, _SHARE),
    ("A40", 149.7, _SHARE),
    ("A30", 165, _SHARE),
    ("A10", 125, _SHARE_OF_SMALL_CARDS),
    ("L40S", 362, _SHARE),
    ("L40", 181, _SHARE),
    ("L4", 121, _SHARE_OF_SMALL_CARDS),
    ("RTX 6000 Ada Generation", 364.2, _SHARE),
    ("RTX A6000", 154.8, _SHARE),
    ("RTX A5000", 111.1, _SHARE),
    ("RTX A4000", 76.7, _SHARE_OF_SMALL_CARDS),
    ("V100S-PCIE.*", 130, _SHARE),
    ("V100-PCIE.*", 112, _SHARE),
    ("V100-SXM.*", 125, _SHARE),
    ("T4", 65, _SHARE_OF_SMALL_CARDS),
)

# "NVIDIA H100 80GB HBM3 MIG 3g.40gb" has three slices, where the whole GPU has seven and a remainder (an A30 has four).
_NAME = re.compile(r"(?:NVIDIA |Tesla )?(?P<model>.+?)(?: MIG (?P<slices>\d+)g\..*)?")
_SLICES = 8


@dataclass(frozen=True)
class Datasheet:
    """What a GPU, or a MIG device, should reach.

    :ivar tflops: Its TFLOP/s by the datasheet.
    :ivar least: TFLOP/s below which it is slow.
    """

    tflops: float
    least: float


def datasheet_of(name: str) -> Datasheet | None:
    """Return what is known of a GPU, by the name that NVML gives it; None for one that is not in the table."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    slices = int(match["slices"]) / _SLICES if match["slices"] else 1
    for pattern, tflops, share in _DATASHEETS:
        if re.fullmatch(pattern, match["model"]):
            return Datasheet(tflops * slices, tflops * slices * share)
    return None
