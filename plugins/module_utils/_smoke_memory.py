# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The device memory that a model will take, predicted from its files, and the choice of a type that fits.

The arithmetic of quantized weights is that of bitsandbytes: linear layers are quantized, everything else keeps two
bytes per value. What a repository has quantized already, as AWQ, GPTQ and FP8 do, is loaded as it is stored. It gives
what the weights take; context, cache and activations come on top.
"""

from __future__ import annotations

import json
import math
import operator
import os
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ._errors import ContentError
from ._smoke_model import Subject

_MIB = 1 << 20

# Bytes per value, of all values alike.
_PLAIN = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}

# The types of safetensors that become the type that is asked for when they are loaded; all others stay as they are.
_FLOATS = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_BITS = re.compile(r"[A-Z]+(\d+)")  # "F8_E4M3"; only BOOL has no number

LONGEST_HEADER = 1 << 26  # bytes; some hundred thousand tensors

_NF4_BLOCK = 64  # values with one scale of one byte: bitsandbytes quantizes the scales as well

# Tensors of two dimensions that are no linear layers, or that bitsandbytes leaves alone.
_NOT_LINEAR = re.compile(r"(embed|shared\.|lm_head|score\.|classifier|wte\.|wpe\.|relative_attention_bias|norm)", re.I)


@dataclass(frozen=True)
class Weights:
    """How many values a model has.

    :ivar linear: Those of linear layers.
    :ivar rows: The rows of these.
    :ivar other: All other values.
    :ivar packed: The bytes of tensors that are loaded as they are stored.
    """

    linear: int = 0
    rows: int = 0
    other: int = 0
    packed: int = 0

    def memory_mib(self, dtype: str) -> int:
        """Return what they take, in MiB."""
        if dtype == "int8":
            size: float = self.linear + 4 * self.rows + 2 * self.other
        elif dtype == "nf4":
            size = self.linear / 2 + self.linear / _NF4_BLOCK + 2 * self.other
        else:
            size = _PLAIN[dtype] * (self.linear + self.other)
        return math.ceil((size + self.packed) / _MIB)


@dataclass(frozen=True)
class Choice:
    """A type, what a model is predicted to take with it, and what there is, in MiB; None where that is not known."""

    dtype: str
    predicted_mib: int | None
    available_mib: int | None

    @property
    def fits(self) -> bool:
        """Whether it fits, as far as that can be told."""
        return self.predicted_mib is None or self.available_mib is None or self.predicted_mib <= self.available_mib


def count_values(headers: Iterable[Mapping[str, object]]) -> Weights:
    """Return how many values the tensors of safetensors headers have.

    :param headers: The headers of all of a model's files.
    """
    linear = rows = other = packed = 0
    for header in headers:
        for name, tensor in header.items():
            if name == "__metadata__" or not isinstance(tensor, Mapping):
                continue
            shape = tensor["shape"]
            values = math.prod(shape)
            if tensor["dtype"] not in _FLOATS:
                bits = _BITS.match(tensor["dtype"])
                packed += values * int(bits[1] if bits else 8) // 8
            elif len(shape) == 2 and not _NOT_LINEAR.search(name):
                linear, rows = linear + values, rows + shape[0]
            else:
                other += values
    return Weights(linear, rows, other, packed)


def stored_dtype(headers: Iterable[Mapping[str, object]]) -> str:
    """Return the type that most values of safetensors headers have, of those that are not packed."""
    values: dict[str, int] = defaultdict(int)
    for header in headers:
        for name, tensor in header.items():
            if name != "__metadata__" and isinstance(tensor, Mapping) and tensor["dtype"] in _FLOATS:
                values[_FLOATS[tensor["dtype"]]] += math.prod(tensor["shape"])
    return max(values, key=lambda dtype: values[dtype], default="float32")


def predict_memory(subject: Subject, dtype: str) -> int | None:
    """Return what a model's weights will take in MiB, or None when its files do not tell."""
    if not subject.weights:
        return None
    paths = [os.path.join(subject.directory, path) for path in subject.weights]
    if subject.engine in ("llama_cpp", "openvino"):  # they keep the tensors as the file has them
        return math.ceil(sum(map(os.path.getsize, paths)) / _MIB)
    return count_values(map(read_header, paths)).memory_mib(dtype)


def parse_header(content: bytes) -> Mapping[str, object]:
    """Return what a header says.

    :raises ValueError: When it is none.
    """
    try:
        header = json.loads(content)
        for name, tensor in header.items():
            if name != "__metadata__":
                math.prod(map(operator.index, tensor["shape"]))
                str.upper(tensor["dtype"])
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return dict(header)


def read_header(path: str) -> Mapping[str, object]:
    """Return the header of a safetensors file.

    :raises ContentError: When it has none.
    """
    try:
        with open(path, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            return parse_header(stream.read(min(length, LONGEST_HEADER)))
    except (struct.error, ValueError):
        raise ContentError(f"{path} has no safetensors header; verify it") from None


def choices(subject: Subject, dtypes: Sequence[str], available_mib: int | None) -> list[Choice]:
    """Return the types in order of preference, each with what the model is predicted to take.

    :param available_mib: What a device has free, or may be used of it; None on a CPU.
    """
    return [Choice(dtype, predict_memory(subject, dtype), available_mib) for dtype in dtypes]
