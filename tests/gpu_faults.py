# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Python whose torch computes on a device with a fault, which takes the arguments that a worker is started with.

Run by the Python of .cache/inference. The name of the device tells the fault: "GPU-stuck" forgets a bit. The worker
goes on unchanged; the results of torch's own operations are damaged underneath it, as a broken device would.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_INNER = 256  # the products of whole numbers are known by it


class Fault(TorchDispatchMode):
    """A device with a fault."""

    def __init__(self, fault: str, devices: int) -> None:
        super().__init__()
        self.fault = fault
        self.devices = devices
        self.calls = itertools.count()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        operation = func.overloadpacket.__name__
        if self.concerns(operation, str(func), args, result):
            self.damage(result.view(-1))
        return result

    def concerns(self, operation: str, name: str, args: Any, result: Any) -> bool:
        """Whether the fault is in this operation."""
        product = operation in ("mm", "_int_mm") and args[0].shape[-1] == _INNER and args[0].dtype != torch.int64
        return {
            "sustained": name == "aten.mm.out" and next(self.calls) > 1,
            "crash": product,
            "error": product,
            "hang": product,
            "stuck": operation == "fill_" and args[1] < 0,
            "address": operation == "copy_" and result.numel() == 1 << 23,
            "copy": operation == "copy_" and result.numel() < 1 << 20,
            "peer": operation == "copy_" and self.devices > 1,
        }.get(self.fault, product and str(args[0].dtype) == f"torch.{self.fault}")

    def damage(self, values: Any) -> None:
        """Do to an operation's result what the fault does."""
        if self.fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif self.fault == "error":
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        elif self.fault == "hang":
            time.sleep(600)
        elif self.fault == "stuck":
            values[4711] |= 1 << 20
        elif self.fault == "address":
            values[1 << 22 :] = values[: 1 << 22].clone()
        elif self.fault in ("copy", "peer"):
            values[17] ^= 1 << 40
        else:
            values[-3] += 1


def main() -> None:
    """Run ``-I -c PROGRAM ARGUMENTS`` as python does."""
    devices = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    isolated, command, program, *arguments = sys.argv[1:]
    assert (isolated, command) == ("-I", "-c")
    sys.argv = ["-c", *arguments]
    with Fault(devices[-1].rpartition("-")[2], len(devices)):
        exec(program, {"__name__": "__main__"})


main()
