# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Structure of model files: whatever the bytes are, they are accepted or refused, soon and in little memory."""

from __future__ import annotations

import json
import os
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.gpufleet.models.plugins.module_utils._errors import ContentError
from ansible_collections.gpufleet.models.plugins.module_utils._formats import check_structure

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 90868376\n"
ERROR_PAGE = b"<!DOCTYPE html>\n<html><head><title>503 Service Unavailable</title></head></html>\n" * 20


def check(name: str, content: bytes) -> None:
    """Check a content as a file of that name."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        check_structure(name, file.fileno(), len(content))


def refused(name: str, content: bytes) -> str:
    """Return the sentence with which a content is refused."""
    with pytest.raises(ContentError) as caught:
        check(name, content)
    message = str(caught.value)
    assert message.startswith(f"not a valid {'GGUF' if name.endswith('.gguf') else 'safetensors'} file: ")
    assert len(message) < 500
    return message


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Check that the body needs at most so much of the CPU."""
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds


# Safetensors: the length of a JSON header (8 bytes), the header, the tensors one after another.


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a file with this header, or with these bytes as one, which may claim another length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start: int, end: int, dtype: str = "U8", shape: Sequence[Any] | None = None) -> dict[str, Any]:
    """Return a tensor's description; without a shape it is a vector of bytes."""
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


SAFETENSORS = safetensors(
    {
        "__metadata__": {"format": "pt"},
        "embeddings.weight": tensor(16, 28, "F16", [2, 3]),
        "scale": tensor(28, 32, "F32", []),
        "packed": tensor(32, 33, "F4", [2]),
        "bias": tensor(0, 16, "F64", [2]),
        "empty": tensor(16, 16, "F32", [0, 7]),
    },
    bytes(range(33)),
)


@pytest.mark.parametrize(
    "content",
    [
        SAFETENSORS,
        safetensors({}),
        safetensors(b"{}" + b" " * 30),
        safetensors({"a": tensor(0, 5, "NEW_TYPE", [1000])}, bytes(5)),
        safetensors({"a": tensor(0, 0, "F32", [1 << 40, 0])}),
        safetensors({"größe": tensor(0, 5)}, bytes(5)),
    ],
    ids=["all kinds", "no tensor", "padded", "new type", "empty tensor", "other letters"],
)
def test_valid_safetensors(content: bytes) -> None:
    check("model.safetensors", content)
    check("MODEL.SafeTensors", content)


def test_truncated_safetensors() -> None:
    for length in range(len(SAFETENSORS)):
        refused("model.safetensors", SAFETENSORS[:length])


@pytest.mark.parametrize("extra", [b"\0", b"\0" * 8, b"x" * 1000, SAFETENSORS], ids=len)
def test_trailing_bytes_after_safetensors(extra: bytes) -> None:
    message = refused("model.safetensors", SAFETENSORS + extra)
    assert f"expected {len(SAFETENSORS)} bytes by its header, found {len(SAFETENSORS + extra)}" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are too few"),
        (b"1234567", "7 bytes are too few"),
        (bytes(8), "not JSON"),
        (ERROR_PAGE, "its header claims"),
        (LFS_POINTER, "its header claims"),
        (safetensors(b"", length=1), "its header claims 1 bytes, the file has 8"),
        (safetensors(b"{}", length=(1 << 64) - 1), "its header claims 18446744073709551615 bytes"),
        (safetensors(b"{}", length=(1 << 63)), "its header claims 9223372036854775808 bytes"),
        (safetensors(b"{}", length=100_000_001), "its header claims 100000001 bytes"),
        (safetensors(b"{'a': 1}"), "not JSON"),
        (safetensors(b"\xff\xfe\xfd"), "not JSON"),
        (safetensors(b"[" * 100_000), "not JSON"),
        (safetensors(b"{}{}"), "not JSON"),
        (safetensors([]), "not a JSON object"),
        (safetensors({"a": None}), "tensor 'a' is not described"),
        (safetensors({"a": []}), "tensor 'a' is not described"),
        (safetensors({"a": {}}), "tensor 'a' is not described"),
        (safetensors({"a": {**tensor(0, 1), "dtype": None}}, b"1"), "tensor 'a' is not described"),
        (safetensors({"a": {**tensor(0, 1), "dtype": ["U8"]}}, b"1"), "tensor 'a' is not described"),
        (safetensors({"a": {**tensor(0, 1), "shape": None}}, b"1"), "tensor 'a' is not described"),
        (safetensors({"a": {**tensor(0, 1), "shape": [-1]}}, b"1"), "tensor 'a' is not described"),
        (safetensors({"a": {**tensor(0, 1), "shape": [True]}}, b"1"), "tensor 'a' is not described"),
        (safetensors({"a": {**tensor(0, 1), "shape": [1.0]}}, b"1"), "tensor 'a' is not described"),
        (safetensors({"a": {**tensor(0, 1), "data_offsets": [0]}}, b"1"), "tensor 'a' is not described"),
        (safetensors({"a": {**tensor(0, 1), "data_offsets": [0, 1, 2]}}, b"1"), "tensor 'a' is not described"),
        (safetensors({"a": {**tensor(0, 1), "data_offsets": [1, 0]}}, b"1"), "tensor 'a' is not described"),
        (safetensors({"a": {**tensor(0, 1), "data_offsets": ["0", "1"]}}, b"1"), "tensor 'a' is not described"),
        (safetensors({"a": tensor(0, 4, "F32", [2])}, bytes(4)), "needs 8 bytes by its shape, its offsets give 4"),
        (safetensors({"a": tensor(0, 4, "F32", [1 << 62, 1 << 62])}, bytes(4)), "bytes by its shape"),
        (safetensors({"a": tensor(0, 1, "F4", [3])}, bytes(1)), "bytes by its shape"),
        (safetensors({"a": tensor(1, 2)}, bytes(2)), "tensor 'a' starts at 1, expected 0"),
        (safetensors({"a": tensor(0, 1), "b": tensor(2, 3)}, bytes(3)), "tensor 'b' starts at 2, expected 1"),
        (safetensors({"a": tensor(0, 2), "b": tensor(1, 3)}, bytes(3)), "tensor 'b' starts at 1, expected 2"),
        (safetensors({"a": tensor(0, 2), "b": tensor(0, 2)}, bytes(2)), "tensor 'b' starts at 0, expected 2"),
        (safetensors({"a": tensor(0, 1 << 60, "NEW")}, b"1"), "bytes by its header, found"),
        (safetensors({"a": tensor(0, 1 << 70, "NEW")}, b"1"), "tensor 'a' is not described"),
        (safetensors(b'{"a": {"shape": [%s]}}' % (b"9" * 5000)), "not JSON"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "content",
)
def test_invalid_safetensors(content: bytes, message: str) -> None:
    assert message in refused("model.safetensors", content)


@pytest.mark.parametrize(("dimension", "count"), [("255", 150_000), ("9" * 4000, 300)], ids=["many", "large"])
def test_absurd_shapes_of_safetensors_are_refused_soon(dimension: str, count: int) -> None:
    """A product over all of them would have a million digits."""
    shape = ",".join([dimension] * count)
    header = f'{{"a": {{"dtype": "U8", "shape": [{shape}], "data_offsets": [0, 1]}}}}'.encode()
    with within(2):
        assert "tensor 'a'" in refused("model.safetensors", safetensors(header, b"1"))


# GGUF: magic, version, counts, metadata, descriptions of tensors, then the aligned tensors. No part of it is the
# engine's: sizes and numbers are those of docs/gguf.md.

F32, F16, Q4_0, Q6_K, I8 = 0, 1, 2, 14, 24
TYPES = {F32: (1, 4), F16: (1, 2), Q4_0: (32, 18), Q6_K: (256, 210), I8: (1, 1)}  # elements per block, its bytes
UINT8, INT32, UINT32, BOOL, STRING, ARRAY, UINT64, FLOAT64 = 0, 5, 4, 7, 8, 9, 10, 12


class Gguf:
    """Builds GGUF files; what is not asked for otherwise is valid."""

    def __init__(self, order: str = "<", version: int = 3, alignment: int = 32) -> None:
        self.order = order
        self.version = version
        self.alignment = alignment
        self.metadata: list[bytes] = []
        self.tensors: list[bytes] = []
        self.data = b""

    def pack(self, code: str, *numbers: int) -> bytes:
        return struct.pack(self.order + code, *numbers)

    def string(self, text: bytes) -> bytes:
        return self.pack("Q", len(text)) + text

    def array(self, kind: int, values: Sequence[bytes]) -> bytes:
        return self.pack("IQ", kind, len(values)) + b"".join(values)

    def entry(self, key: bytes, kind: int, value: bytes) -> Gguf:
        self.metadata.append(self.string(key) + self.pack("I", kind) + value)
        return self

    def tensor(
        self, name: bytes, kind: int, *dimensions: int, offset: int | None = None, data: bytes | None = None
    ) -> Gguf:
        self.data += bytes(-len(self.data) % self.alignment)
        place = len(self.data) if offset is None else offset
        shape = self.pack(f"I{len(dimensions)}Q", len(dimensions), *dimensions)
        self.tensors.append(self.string(name) + shape + self.pack("IQ", kind, place))
        if data is None:
            per_block, size = TYPES[kind]
            elements = 1
            for dimension in dimensions:
                elements *= dimension
            data = b"w" * (elements // per_block * size)
        self.data += data
        return self

    def header(self, tensors: int | None = None, entries: int | None = None, version: int | None = None) -> bytes:
        counts = (len(self.tensors) if tensors is None else tensors, len(self.metadata) if entries is None else entries)
        start = b"GGUF" + self.pack("IQQ", self.version if version is None else version, *counts)
        return start + b"".join(self.metadata) + b"".join(self.tensors)

    def build(self, **header: int) -> bytes:
        content = self.header(**header)
        return content + (bytes(-len(content) % self.alignment) + self.data if self.tensors else b"")


def whole_gguf(order: str = "<", version: int = 3, alignment: int | None = None) -> Gguf:
    """Return a file with every kind of content."""
    gguf = Gguf(order, version, alignment or 32)
    gguf.entry(b"general.architecture", STRING, gguf.string(b"llama"))
    if alignment:
        gguf.entry(b"general.alignment", UINT32, gguf.pack("I", alignment))
    gguf.entry(b"flag", BOOL, b"\1").entry(b"byte", UINT8, b"\7").entry(b"count", UINT64, gguf.pack("Q", 1 << 40))
    gguf.entry(b"rate", FLOAT64, gguf.pack("d", 0.5)).entry(b"offset", INT32, gguf.pack("i", -1))
    gguf.entry(b"tokens", ARRAY, gguf.array(STRING, [gguf.string(token) for token in (b"<s>", b"", "größe".encode())]))
    gguf.entry(b"scores", ARRAY, gguf.array(INT32, [gguf.pack("i", 1), gguf.pack("i", 2)]))
    nested = [gguf.array(STRING, [gguf.string(b"x")]), gguf.array(UINT8, [b"1", b"2"]), gguf.array(ARRAY, [])]
    gguf.entry(b"nested", ARRAY, gguf.array(ARRAY, [gguf.array(ARRAY, nested), gguf.array(STRING, [])]))
    gguf.tensor(b"token_embd.weight", Q4_0, 64, 3).tensor(b"norm.weight", F32, 5).tensor(b"output.weight", Q6_K, 256)
    return gguf.tensor(b"scalar", F16).tensor(b"empty", F32, 0, 7).tensor(b"last", I8, 3, 1, 1, 1)


GGUF = whole_gguf().build()
VARIANTS = [(order, version, alignment) for order in "<>" for version in (2, 3) for alignment in (None, 8, 64, 4096)]


@pytest.mark.parametrize(("order", "version", "alignment"), VARIANTS)
def test_valid_gguf(order: str, version: int, alignment: int | None) -> None:
    content = whole_gguf(order, version, alignment).build()
    check("model.gguf", content)
    check("model.Q4_0.GGUF", content)
    # Writers may pad the last tensor.
    check("model.gguf", content + bytes(-len(content) % (alignment or 32)))


def test_gguf_without_tensors_is_a_vocabulary() -> None:
    gguf = Gguf().entry(b"general.architecture", STRING, Gguf().string(b"llama"))
    check("vocabulary.gguf", gguf.build())
    check("vocabulary.gguf", gguf.build() + bytes(-len(gguf.build()) % 32))


def test_tensor_type_of_the_future_is_accepted() -> None:
    check("model.gguf", Gguf().tensor(b"a", 9999, 4, data=b"1234").build())


@pytest.mark.parametrize(("order", "alignment"), [("<", None), (">", 8), ("<", 64)])
def test_truncated_gguf(order: str, alignment: int | None) -> None:
    content = whole_gguf(order, 3, alignment).build()
    for length in range(len(content)):
        refused("model.gguf", content[:length])


@pytest.mark.parametrize("extra", [64, 1000, 1 << 20])
def test_trailing_bytes_after_gguf(extra: int) -> None:
    message = refused("model.gguf", GGUF + bytes(extra))
    assert f"expected {len(GGUF)} bytes by its header, found {len(GGUF) + extra}" in message


def _entry(kind: int, value: bytes, key: bytes = b"key") -> bytes:
    return Gguf().entry(key, kind, value).build()


_pack = Gguf().pack
_HUGE = (1 << 64) - 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected it to start with b'GGUF', found b''"),
        (b"GGU", "found b'GGU'"),
        (b"GGUF", "runs past the file's end"),
        (b"ggml" + GGUF[4:], "found b'ggml'"),
        (ERROR_PAGE, "found b'<!DO'"),
        (LFS_POINTER, "found b'vers'"),
        (SAFETENSORS, "expected it to start with b'GGUF'"),
        (Gguf().build(version=0), "expected version 2 or 3, found 0"),
        (Gguf().build(version=1), "expected version 2 or 3, found 1"),
        (Gguf().build(version=4), "expected version 2 or 3, found 4"),
        (Gguf().build(tensors=_HUGE), f"it claims {_HUGE} tensors"),
        (Gguf().build(entries=_HUGE), f"tensors and {_HUGE} metadata entries"),
        (Gguf().build(tensors=1 << 20), "runs past the file's end"),
        (Gguf().build(entries=1 << 20), "runs past the file's end"),
        (Gguf().build(entries=1) + _pack("Q", _HUGE), f"a name claims {_HUGE} bytes"),
        (Gguf().build(tensors=1) + _pack("Q", _HUGE), f"a name claims {_HUGE} bytes"),
        (Gguf().build(entries=1) + _pack("Q", 100), "runs past the file's end"),
        (_entry(STRING, _pack("Q", 1 << 63)), "runs past the file's end"),
        (_entry(13, b""), "metadata of the unknown type 13"),
        (_entry(_HUGE & 0xFFFFFFFF, b""), "metadata of the unknown type 4294967295"),
        (_entry(ARRAY, _pack("IQ", UINT8, _HUGE)), "runs past the file's end"),
        (_entry(ARRAY, _pack("IQ", FLOAT64, 100) + bytes(100)), "runs past the file's end"),
        (_entry(ARRAY, _pack("IQ", STRING, _HUGE)), f"its arrays claim {_HUGE} values"),
        (_entry(ARRAY, _pack("IQ", 13, 1)), "metadata of the unknown type 13"),
        (_entry(ARRAY, _pack("IQ", ARRAY, 1) * 100_000), "unknown type 9"),
        *(
            (
                whole_gguf().entry(b"general.alignment", UINT32, _pack("I", alignment)).build(),
                f"alignment of {alignment}",
            )
            for alignment in (0, 3, 33, 0xFFFFFFFF)
        ),
        (_entry(STRING, Gguf().string(b"32"), b"general.alignment"), "alignment of 0"),
        (Gguf().tensor(b"a", F32, 1, 1, 1, 1, 1).build(), "tensor b'a' claims 5 dimensions"),
        (Gguf().build(tensors=1) + Gguf().string(b"a") + _pack("I", 0xFFFFFFFF), "claims 4294967295 dimensions"),
        (Gguf().tensor(b"a", Q4_0, 33, data=b"").build(), "tensor b'a' has 33 elements, not a multiple of 32"),
        (Gguf().tensor(b"a", F32, *[_HUGE] * 4, data=b"1234").build(), "bytes by its header, found"),
        (Gguf().tensor(b"a", F32, 2, data=b"1234").build(), "bytes by its header, found"),
        (Gguf().tensor(b"a", F32, 1, offset=32).build(), "tensor b'a' starts at 32, expected 0"),
        (Gguf().tensor(b"a", F32, 1).tensor(b"b", F32, 1, offset=64).build(), "tensor b'b' starts at 64, expected 32"),
        (Gguf().tensor(b"a", F32, 9).tensor(b"b", F32, 1, offset=32).build(), "tensor b'b' starts at 32, expected 64"),
        (Gguf().tensor(b"a", F32, 1).tensor(b"b", F32, 1, offset=0).build(), "tensor b'b' starts at 0, expected 32"),
        (Gguf().tensor(b"a", F32, 1).tensor(b"b", F32, 1, offset=4).build(), "tensor b'b' starts at 4, expected 32"),
        (Gguf().tensor(b"a", F32, 1, offset=_HUGE).build(), f"tensor b'a' starts at {_HUGE}, expected 0"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "content",
)
def test_invalid_gguf(content: bytes, message: str) -> None:
    assert message in refused("model.gguf", content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", safetensors({"x" * 100_000: {}})),
        ("model.safetensors", safetensors({"x" * 100_000: tensor(1, 2)}, b"12")),
        ("model.safetensors", safetensors({"x": tensor(0, 1, "F32", [1 << 62] * 64)}, b"1")),
        ("model.safetensors", safetensors({"\x1b[2J\n": {}})),
        ("model.gguf", Gguf().tensor(b"x" * 60_000, F32, 1, offset=32).build()),
        ("model.gguf", Gguf().tensor(b"\x1b[2J\n", F32, 1, offset=32).build()),
    ],
    ids=range(6),
)
def test_whatever_a_tensor_is_called_the_sentence_is_short(name: str, content: bytes) -> None:
    assert refused(name, content).isprintable()


def check_sparse(directory: Path, pieces: dict[int, bytes], size: int) -> None:
    """Check a file that has these pieces at their positions and zero bytes in between, of which the disk has none."""
    path = directory / "sparse.gguf"
    with path.open("wb") as file:
        for position, piece in pieces.items():
            file.seek(position)
            file.write(piece)
        file.truncate(size)
    with path.open("rb") as file:
        check_structure(path.name, file.fileno(), size)


@pytest.mark.parametrize("inner", [STRING, ARRAY], ids=["strings", "arrays"])
def test_absurd_arrays_of_gguf_are_refused_soon(tmp_path: Path, inner: int) -> None:
    """No tokenizer has two million tokens; a file of some gigabytes could claim that it has some hundred million."""
    count = 2_000_000
    start = Gguf().build(entries=1) + Gguf().string(b"tokens") + _pack("IIQ", ARRAY, inner, count)
    with within(1), pytest.raises(ContentError):
        check_sparse(tmp_path, {0: start}, len(start) + 12 * count)


def test_absurd_names_of_gguf_need_little_memory(tmp_path: Path) -> None:
    """The format has names of 64 bytes; here each of eight tensors claims one of 32 MiB."""
    start, length = Gguf().build(tensors=8), 32 << 20
    description = 8 + length + 16  # the name with its length, no dimension, type and offset
    pieces = {len(start) + index * description: _pack("Q", length) for index in range(8)}
    tracemalloc.start()
    try:
        with pytest.raises(ContentError):
            check_sparse(tmp_path, {0: start, **pieces}, len(start) + 8 * description + 1)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [b"[]", b"{}", b'"ab"', b"1.5", b"[[[[[[]]]]]]"])
def test_absurd_headers_of_safetensors_need_little_memory(tmp_path: Path, value: bytes) -> None:
    """What a file says of itself, of which a tenth of a per cent is usual, is 32 MiB long here."""
    length = 32 << 20
    values = b",".join([value] * (length // (len(value) + 1)))
    header = b'{"__metadata__":[' + values.ljust(length - 19) + b"]}"
    tracemalloc.start()
    try:
        with within(2), pytest.raises(ContentError):
            check_sparse(tmp_path, {0: struct.pack("<Q", len(header)) + header}, 8 + len(header) + 1)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


# What others write.


def test_tensor_types_have_the_sizes_that_the_gguf_package_knows() -> None:
    constants = pytest.importorskip("gguf.constants")
    for kind, (per_block, size) in constants.GGML_QUANT_SIZES.items():
        if kind.name != "Q8_1":  # an intermediate result, whose size that package has wrong; it is in no file
            check("model.gguf", Gguf().tensor(b"a", int(kind), 2 * per_block, data=bytes(2 * size)).build())
            refused("model.gguf", Gguf().tensor(b"a", int(kind), 2 * per_block, data=bytes(2 * size - 1)).build())


def test_files_that_the_safetensors_package_writes() -> None:
    library, numpy = pytest.importorskip("safetensors.numpy"), pytest.importorskip("numpy")
    kinds = ["bool", "uint8", "int8", "uint16", "int16", "float16", "uint32", "int32", "float32"]
    kinds += ["uint64", "int64", "float64", "complex64"]
    arrays = {kind: numpy.zeros((2, 3), dtype=kind) for kind in kinds}
    content = library.save({**arrays, "scalar": numpy.zeros(()), "empty": numpy.zeros((0, 5))}, {"a": "b"})
    check("model.safetensors", content)
    refused("model.safetensors", content[:-1])


# Whatever the bytes are.


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return a content with a few of its bytes changed, removed or repeated, mostly in its header."""
    damage = bytearray(content)
    for _change in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, max(0, len(damage) - 1)))
        length = draw(st.integers(0, 16))
        damage[position : position + length] = draw(st.binary(max_size=16) | st.just(b"\xff" * length))
    return bytes(damage)


def accepted_or_refused(name: str, content: bytes) -> None:
    """Check a content of which nothing is known."""
    with within(2):
        try:
            check(name, content)
        except ContentError as error:
            message = str(error)
        else:
            return
    assert message.startswith("not a valid ")
    assert "\n" not in message


@given(st.binary(max_size=200) | damaged(SAFETENSORS) | st.binary().map(safetensors))
def test_any_bytes_as_safetensors(content: bytes) -> None:
    accepted_or_refused("model.safetensors", content)


_numbers = st.integers(-1, 40) | st.integers() | st.floats() | st.text() | st.none() | st.booleans()
_tensors = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "F4", "NEW"]) | _numbers,
        "shape": st.lists(_numbers, max_size=3) | _numbers,
        "data_offsets": st.lists(_numbers, max_size=3) | _numbers,
    }
)


@given(st.dictionaries(st.text(max_size=3), _tensors, max_size=3), st.binary(max_size=40))
@example({"a": tensor(0, 4, "F32", [10**4000, 10**4000])}, bytes(4))
@example({"a": tensor(0, 10**4200, "NEW")}, bytes(4))
@example({"\ud800": tensor(0, 4)}, bytes(4))
def test_any_header_of_safetensors(header: dict[str, Any], data: bytes) -> None:
    accepted_or_refused("model.safetensors", safetensors(header, data))


@given(st.binary(max_size=200) | damaged(GGUF) | st.binary(max_size=200).map(lambda tail: GGUF[:24] + tail))
def test_any_bytes_as_gguf(content: bytes) -> None:
    accepted_or_refused("model.gguf", content)


@given(damaged(whole_gguf(">", 2, 64).build()))
def test_any_bytes_as_big_endian_gguf(content: bytes) -> None:
    accepted_or_refused("model.gguf", content)


@pytest.mark.parametrize("name", ["config.json", "model.bin", "safetensors", "model.safetensors.index.json", ".gguf"])
def test_other_files_are_accepted(name: str) -> None:
    check(name, b"")
    check(name, ERROR_PAGE)


def test_position_of_the_descriptor_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(GGUF)
    with path.open("rb") as file:
        for position in (0, 3, len(GGUF)):
            os.lseek(file.fileno(), position, os.SEEK_SET)
            check_structure(path.name, file.fileno(), len(GGUF))
        os.fstat(file.fileno())  # it is still open
