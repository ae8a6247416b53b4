# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog: what people write, and which files it selects."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.gpufleet.models.plugins.module_utils._catalog import (
    CODE_SUFFIXES,
    PICKLE_SUFFIXES,
    Entry,
    parse_catalog,
)
from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from tests.unit.values import json_values, result_or_refusal, texts, with_changes

CATALOG: list[Any] = [
    {"name": "minilm", "repo_id": "acme/minilm"},
    {
        "name": "llama",
        "repo_id": "acme/llama",
        "revision": "refs/pr/1",
        "include": ["*.json", "*.safetensors"],
        "exclude": ["onnx/*"],
        "allow_pickle": True,
        "allow_code": False,
        "requires": {"gpus": 2},
        "smoke": {"task": "embedding"},
    },
]

REPOSITORY = [
    "README.md",
    "config.json",
    "1_Pooling/config.json",
    "model.safetensors",
    "pytorch_model.bin",
    "onnx/model.onnx",
    "modeling_acme.py",
]
SAFE = ("README.md", "*.json", "*.safetensors", "onnx/*")

# Catalogs are read on the control node alone; before 3.11 fnmatch fails on some patterns.
CONTROL_NODE = pytest.mark.skipif(sys.version_info < (3, 11), reason="no Python of a control node")


@given(json_values | with_changes(CATALOG))
def test_any_value_is_entries_or_one_sentence(value: Any) -> None:
    result = result_or_refusal(parse_catalog, value)
    if isinstance(result, InvalidInput):
        assert str(result).startswith("catalog")
    else:
        assert result
        assert all(isinstance(entry, Entry) for entry in result)


@CONTROL_NODE
@given(st.lists(st.text(min_size=1)).map(tuple), st.lists(st.text(min_size=1)).map(tuple), st.lists(texts))
def test_any_patterns_select_files_or_are_refused(
    include: tuple[str, ...], exclude: tuple[str, ...], paths: list[str]
) -> None:
    entry = Entry("minilm", "acme/minilm", include=include, exclude=exclude)
    result = result_or_refusal(entry.select, paths)
    if isinstance(result, InvalidInput):
        assert str(result).startswith("minilm: ")
    else:
        assert result
        assert set(result) <= set(paths)


def test_everything_that_can_be_said() -> None:
    first, second = parse_catalog(CATALOG)
    assert first == Entry("minilm", "acme/minilm", "main", (), (), False, False, None, None)
    assert second == Entry(
        "llama",
        "acme/llama",
        "refs/pr/1",
        ("*.json", "*.safetensors"),
        ("onnx/*",),
        allow_pickle=True,
        allow_code=False,
        requires={"gpus": 2},
        smoke={"task": "embedding"},
    )


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("name", ["", "../a", "a/b", None, 1]),
        ("repo_id", ["", "a/b/c", "../a", None]),
        ("revision", ["", "a b", 1.0, None]),
        ("include", ["*.json", {"*.json": 1}, [""], [None], [1], 1]),
        ("exclude", ["*.json", {"*.json": 1}, [""], [None], [1], 1]),
        ("allow_pickle", ["yes", 1, 0, None, []]),
        ("allow_code", ["true", 1, 0, None, []]),
        ("requires", ["x", 1, [], {1: 2}]),
        ("smoke", ["x", 1, [], {1: 2}]),
    ],
)
def test_wrong_field(key: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(InvalidInput, match=rf"^catalog\[0\](\.| \(minilm\)\.){key}: expected .*, found "):
            parse_catalog([{**CATALOG[0], key: value}])


@pytest.mark.parametrize(
    ("catalog", "message"),
    [
        (None, "catalog: expected a list of at least one model, found None"),
        ([], "catalog: expected a list of at least one model, found []"),
        ({}, "catalog: expected a list of at least one model, found {}"),
        ([None], "catalog[0]: expected a mapping, found None"),
        ([{}], "catalog[0]: name, repo_id missing"),
        ([{**CATALOG[0], "revison": "v1"}], "catalog[0]: unknown key revison"),
        ([CATALOG[0], {**CATALOG[1], "name": "MiniLM"}], "catalog: 'MiniLM' and 'minilm' are the same path"),
    ],
    ids=["none", "empty", "mapping", "entry is none", "keys missing", "unknown key", "clash"],
)
def test_wrong_catalog(catalog: object, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_catalog(catalog)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("include", "exclude", "selected"),
    [
        (SAFE, (), ["1_Pooling/config.json", "README.md", "config.json", "model.safetensors", "onnx/model.onnx"]),
        (("config.json",), (), ["config.json"]),
        (("*config.json",), (), ["1_Pooling/config.json", "config.json"]),
        (("*.json", "config.*"), (), ["1_Pooling/config.json", "config.json"]),
        (("[!p]odel.*", "*.md"), ("*.md",), ["model.safetensors"]),
        ((), ("*.bin", "*.py", "onnx/*", "*/*"), ["README.md", "config.json", "model.safetensors"]),
        (("model.?afetensors",), (), ["model.safetensors"]),
        (("README.md",), ("readme.md", "*.absent"), ["README.md"]),
    ],
)
def test_globs(include: tuple[str, ...], exclude: tuple[str, ...], selected: list[str]) -> None:
    assert Entry("minilm", "acme/minilm", include=include, exclude=exclude).select(reversed(REPOSITORY)) == selected


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [
        (("*.gguf",), (), "minilm: include pattern '*.gguf' matches no file of acme/minilm; there are: 1_Pooling/"),
        (("*.json", "CONFIG.json"), (), "minilm: include pattern 'CONFIG.json' matches no file"),
        (("*.json",), ("*",), "minilm: include and exclude leave no file of acme/minilm; there are: 1_Pooling/"),
        pytest.param(("[z-a]",), (), "minilm: include pattern '[z-a]' matches no file", marks=CONTROL_NODE),
    ],
)
def test_patterns_that_select_nothing_list_what_there_is(
    include: tuple[str, ...], exclude: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        Entry("minilm", "acme/minilm", include=include, exclude=exclude).select(REPOSITORY)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("there are: " + ", ".join(sorted(REPOSITORY)))


def test_empty_repository() -> None:
    with pytest.raises(InvalidInput, match=r"there are: none$"):
        Entry("minilm", "acme/minilm").select([])


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title])
@pytest.mark.parametrize(
    ("suffixes", "switch"), [(PICKLE_SUFFIXES, "allow_pickle"), (CODE_SUFFIXES, "allow_code")], ids=["pickle", "code"]
)
def test_formats_that_run_code_need_their_switch(suffixes: tuple[str, ...], switch: str, change: Any) -> None:
    other = {"allow_pickle": "allow_code", "allow_code": "allow_pickle"}[switch]
    for suffix in suffixes:
        path = change(f"weights/file{suffix}")
        paths = ["config.json", path]
        with pytest.raises(InvalidInput) as caught:
            Entry("minilm", "acme/minilm", **{other: True}).select(paths)
        assert str(caught.value).startswith(f"minilm: {path} of acme/minilm: ")
        assert f"'{switch}: true'" in str(caught.value)
        assert Entry("minilm", "acme/minilm", **{switch: True}).select(paths) == sorted(paths)
        assert Entry("minilm", "acme/minilm", exclude=(path,)).select(paths) == ["config.json"]


@pytest.mark.parametrize(
    "path",
    ["pytorch_model.bin.index.json", "model.safetensors", "model.gguf", "bin", "a.pt/config.json", "a.py.md"],
)
def test_formats_that_do_not_run_code(path: str) -> None:
    assert Entry("minilm", "acme/minilm").select([path]) == [path]
