# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Structure of model files: what their headers promise must be what the file has.

It complements the SHA-256, which proves that a file is what the lock names: this proves that what the lock names is a
whole model file, and no error page, pointer or truncated upload. Sources: the safetensors README ("Format") and
``docs/gguf.md`` of ggml-org/ggml.
"""

from __future__ import annotations

import json
import math
import os
import struct
from typing import BinaryIO, Callable

from ._errors import ContentError
from ._lockfile import is_count

_REASON_LIMIT = 200  # characters; a file may call its tensors what it likes

_SAFETENSORS_HEADER_LIMIT = 32 << 20  # bytes; the reference implementation's is 100 MB, 1 MB is much
_SAFETENSORS_VALUES = 2_000_000  # of JSON in a header; a tensor has eight
_SAFETENSORS_DIMENSIONS = 64

# Bits per element. The size of a tensor of a type that is not here is not checked: formats grow.
_SAFETENSORS_TYPES = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip

_GGUF_COUNT_LIMIT = 1 << 20  # tensors, metadata entries, tokens with merges: more than any model has
_GGUF_KEY_LIMIT = 1 << 16  # bytes of a metadata key or a tensor's name
_GGUF_DIMENSIONS = 4

# Scalar metadata types by their number: bytes per value. 8 is a string, 9 an array.
_GGUF_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_STRING, _GGUF_ARRAY, _GGUF_UINT32 = 8, 9, 4

# Tensor types by their number: elements per block, bytes per block (ggml.c, type_traits). Newer types are not checked.
_GGUF_TENSORS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36),
    41: (128, 18),
}  # fmt: skip


def check_structure(path: str, descriptor: int, size: int) -> None:
    """Check the structure of a file whose name ends in ``.safetensors`` or ``.gguf``; accept any other.

    :param path: The file's name; its ending decides.
    :param descriptor: The open file.
    :param size: Its size in bytes.
    :raises ContentError: With what was expected and found.
    """
    check = _CHECKS.get(os.path.splitext(path)[1].lower())
    if check is None:
        return
    with open(descriptor, "rb", closefd=False) as stream:
        stream.seek(0)
        try:
            check(stream, size)
        except _Malformed as error:
            reason = str(error) if len(str(error)) <= _REASON_LIMIT else f"{str(error)[:_REASON_LIMIT]}..."
            raise ContentError(f"not a valid {error.kind} file: {reason}") from None


class _Malformed(Exception):
    kind = ""


class _MalformedSafetensors(_Malformed):
    kind = "safetensors"


class _MalformedGguf(_Malformed):
    kind = "GGUF"


def _check_safetensors(stream: BinaryIO, size: int) -> None:
    prefix = stream.read(8)
    if len(prefix) < 8:
        raise _MalformedSafetensors(f"{size} bytes are too few for a header")
    (length,) = struct.unpack("<Q", prefix)
    if length > min(_SAFETENSORS_HEADER_LIMIT, size - 8):
        raise _MalformedSafetensors(f"its header claims {length} bytes, the file has {size} (starts with {prefix!r})")
    content = stream.read(length)
    # Each takes some 60 bytes of memory.
    values = sum(map(content.count, (b",", b"[", b"{")))
    if values > _SAFETENSORS_VALUES:
        raise _MalformedSafetensors(f"its header has {values} values, expected at most {_SAFETENSORS_VALUES}")
    try:
        header = json.loads(content)
    except (ValueError, RecursionError):
        raise _MalformedSafetensors("its header is not JSON") from None
    if not isinstance(header, dict):
        raise _MalformedSafetensors("its header is not a JSON object")
    spans = sorted(_safetensors_span(name, tensor) for name, tensor in header.items() if name != "__metadata__")
    position = 0
    for start, end, name in spans:
        if start != position:
            raise _MalformedSafetensors(f"tensor {name!r} starts at {start}, expected {position}")
        position = end
    if 8 + length + position != size:
        raise _MalformedSafetensors(f"expected {8 + length + position} bytes by its header, found {size}")


def _safetensors_span(name: str, tensor: object) -> tuple[int, int, str]:
    try:
        bits = _SAFETENSORS_TYPES.get(tensor["dtype"])  # type: ignore[index]
        shape, (start, end) = tensor["shape"], tensor["data_offsets"]  # type: ignore[index]
        if len(shape) > _SAFETENSORS_DIMENSIONS or not isinstance(tensor["dtype"], str):  # type: ignore[index]
            raise ValueError
        if not all(is_count(number) for number in (*shape, start, end)) or start > end:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise _MalformedSafetensors(f"tensor {name!r} is not described as the format demands") from None
    if bits is None:
        return start, end, name
    bits *= math.prod(shape)
    if bits != (end - start) * 8:
        raise _MalformedSafetensors(
            f"tensor {name!r} needs {bits // 8} bytes by its shape, its offsets give {end - start}"
        )
    return start, end, name


class _GgufReader:
    """Reads the parts of a GGUF header one after another and never past the file's end."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.stream = stream
        self.size = size
        self.order = "<"
        self.values = 0  # of arrays, that take a step each

    def take(self, length: int) -> bytes:
        if length > self.size - self.stream.tell():
            raise _MalformedGguf(f"its header runs past the file's end at {self.size} bytes")
        return self.stream.read(length)

    def skip(self, length: int) -> None:
        if length > self.size - self.stream.tell():
            raise _MalformedGguf(f"its header runs past the file's end at {self.size} bytes")
        self.stream.seek(length, os.SEEK_CUR)

    def number(self, code: str) -> int:
        return int(struct.unpack(self.order + code, self.take(struct.calcsize(self.order + code)))[0])

    def key(self) -> bytes:
        length = self.number("Q")
        if length > _GGUF_KEY_LIMIT:
            raise _MalformedGguf(f"a name claims {length} bytes")
        return self.take(length)

    def value(self, kind: int, depth: int = 0) -> int:
        """Skip one metadata value; return it where it is a 32-bit number, else 0."""
        if kind == _GGUF_UINT32:
            return self.number("I")
        if kind in _GGUF_SCALARS:
            self.skip(_GGUF_SCALARS[kind])
        elif kind == _GGUF_STRING:
            self.skip(self.number("Q"))
        elif kind == _GGUF_ARRAY and depth < 4:
            inner, count = self.number("I"), self.number("Q")
            if inner in _GGUF_SCALARS:
                self.skip(count * _GGUF_SCALARS[inner])
                return 0
            self.values += count
            if self.values > _GGUF_COUNT_LIMIT:
                raise _MalformedGguf(f"its arrays claim {self.values} values")
            for _index in range(count):
                self.value(inner, depth + 1)
        else:
            raise _MalformedGguf(f"metadata of the unknown type {kind}")
        return 0


def _check_gguf(stream: BinaryIO, size: int) -> None:
    reader = _GgufReader(stream, size)
    magic = stream.read(4)
    if magic != b"GGUF":
        raise _MalformedGguf(f"expected it to start with b'GGUF', found {magic!r}")
    version = reader.take(4)
    if version[0] == 0:
        reader.order = ">"
    (number,) = struct.unpack(reader.order + "I", version)
    if number not in (2, 3):
        raise _MalformedGguf(f"expected version 2 or 3, found {number}")
    tensors, entries = reader.number("Q"), reader.number("Q")
    if max(tensors, entries) > _GGUF_COUNT_LIMIT:
        raise _MalformedGguf(f"it claims {tensors} tensors and {entries} metadata entries")
    alignment = 32
    for _index in range(entries):
        key = reader.key()
        value = reader.value(reader.number("I"))
        if key == b"general.alignment":
            alignment = value
    if alignment <= 0 or alignment & (alignment - 1):
        raise _MalformedGguf(f"its alignment of {alignment} bytes is no power of two")
    end = _gguf_data_size(reader, tensors, alignment)
    if end is None:
        return
    header = stream.tell()
    expected = _align(header, alignment) + end if tensors else header
    # Writers may or may not pad the last tensor.
    if size not in (expected, _align(expected, alignment)):
        raise _MalformedGguf(f"expected {expected} bytes by its header, found {size}")


def _gguf_data_size(reader: _GgufReader, tensors: int, alignment: int) -> int | None:
    """Read the descriptions of all tensors; return where the last one ends, in bytes from the data's start.

    :returns: None when a tensor is of a type whose size is not known here.
    """
    spans = []
    for _index in range(tensors):
        name = reader.key()
        dimensions = reader.number("I")
        if dimensions > _GGUF_DIMENSIONS:
            raise _MalformedGguf(f"tensor {name!r} claims {dimensions} dimensions")
        elements = 1
        for _dimension in range(dimensions):
            elements *= reader.number("Q")
        kind, offset = reader.number("I"), reader.number("Q")
        if kind not in _GGUF_TENSORS:
            return None
        per_block, block_bytes = _GGUF_TENSORS[kind]
        if elements % per_block:
            raise _MalformedGguf(f"tensor {name!r} has {elements} elements, not a multiple of {per_block}")
        spans.append((offset, offset + elements // per_block * block_bytes, name))
    position = 0
    for start, end, name in sorted(spans):
        if start != _align(position, alignment):
            raise _MalformedGguf(f"tensor {name!r} starts at {start}, expected {_align(position, alignment)}")
        position = end
    return position


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


_CHECKS: dict[str, Callable[[BinaryIO, int], None]] = {".safetensors": _check_safetensors, ".gguf": _check_gguf}
