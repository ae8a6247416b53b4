# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lock: whatever it holds, it is a set of harmless models, or the error is one sentence."""

from __future__ import annotations

import json
import os
import random
import unicodedata
from dataclasses import replace
from typing import Any, Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import (
    MAX_FILE_SIZE,
    File,
    Model,
    check_path,
    check_paths_agree,
    dump_lock,
    lock_digest,
    parse_lock,
    parse_models,
)
from tests.unit.stores import SMALL, models_of
from tests.unit.values import json_values, result_or_refusal, with_changes

FILE: dict[str, Any] = {"path": "model.safetensors", "size": 4, "sha256": "ab" * 32}
MODEL: dict[str, Any] = {
    "name": "minilm",
    "repo_id": "acme/minilm",
    "revision": "main",
    "commit": "0" * 40,
    "files": [FILE, {"path": "1_Pooling/config.json", "size": 2, "sha256": "cd" * 32}],
}
LOCK: list[Any] = [{**MODEL, "requires": {"gpus": 1}, "smoke": {"kind": "embedding"}}, {**MODEL, "name": "llama"}]


def as_text(models: Any, **changes: Any) -> str:
    """Return the text of a lock with these models."""
    return json.dumps({"lock_version": 1, "models": models, **changes})


def check_harmless(models: tuple[Model, ...]) -> None:
    """Check what hosts rely on: it can be written and read again, and its paths stay in the model's directory."""
    ordered = tuple(sorted(models, key=lambda model: model.name))
    assert parse_lock(dump_lock(models).encode().decode(), "lock") == ordered
    for model in models:
        for file in model.files:
            path = f"/store/{model.name}/{file.path}"
            assert os.path.normpath(path) == path
            assert all(0 < len(os.fsencode(part)) <= 255 for part in path[1:].split("/"))


@given(json_values | with_changes(LOCK))
def test_any_value_is_harmless_models_or_one_sentence(value: Any) -> None:
    result = result_or_refusal(parse_models, value)
    if isinstance(result, InvalidInput):
        assert str(result).startswith("models")
    else:
        check_harmless(result)


@given(st.text() | json_values.map(json.dumps) | with_changes(LOCK).map(as_text))
def test_any_text_is_harmless_models_or_one_sentence(text: str) -> None:
    result = result_or_refusal(parse_lock, text, "models.lock.json")
    if isinstance(result, InvalidInput):
        assert str(result).startswith("models.lock.json: ")
    else:
        check_harmless(result)


@pytest.mark.parametrize("depth", [10, 100, 900, 4_000, 50_000])
@pytest.mark.parametrize(
    "document",
    [
        {"lock_version": 1, "models": "HERE"},
        {"lock_version": "HERE", "models": []},
        {"lock_version": 1, "models": [{**MODEL, "files": "HERE"}]},
        {"lock_version": 1, "models": [{**MODEL, "requires": {"a": "HERE"}}]},
    ],
    ids=["models", "lock_version", "files", "requires"],
)
def test_deep_nesting_is_refused_or_can_be_written_again(document: dict[str, Any], depth: int) -> None:
    text = json.dumps(document).replace('"HERE"', "[" * depth + "]" * depth)
    result = result_or_refusal(parse_lock, text, "lock")
    if not isinstance(result, InvalidInput):
        check_harmless(result)


@pytest.mark.parametrize("depth", [10, 900, 50_000])
def test_deeply_nested_arguments_are_one_sentence(depth: int) -> None:
    value: list[Any] = []
    for _level in range(depth):
        value = [value]
    with pytest.raises(InvalidInput, match=r"^models\[0\]: expected a mapping, found "):
        parse_models(value)


@pytest.mark.parametrize(
    "values",
    [[r'"\ud800"', r'[{"b": "\udfff"}]', r'{"\udcff": 1}'], ["NaN", "[Infinity]", "-1e999"]],
    ids=["text", "number"],
)
@pytest.mark.parametrize("key", ["requires", "smoke"])
def test_what_a_lock_cannot_hold_is_refused(key: str, values: list[str]) -> None:
    """UTF-8 has no lone surrogates and JSON has no NaN: such a lock could not be written, or not be read by others."""
    for value in values:
        text = as_text([{**MODEL, key: {"a": "HERE"}}]).replace('"HERE"', value)
        with pytest.raises(InvalidInput):
            parse_lock(text, "lock")


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "..", "../a", "a/../../b", "a/..", "./a", "a/./b", "/etc/passwd", "//a", "a//b", "a/"),
        *(
            "a\0b",
            "a\\b",
            "..\\b",
            "C:\\b",
            "a\nb",
            "a\x1b[2Jb",
            "a\x7fb",
            "a\u0085b",
            "a\u202eb",
            "a\u200bb",
            "a\ue000b",
        ),
        *("\ud800", "a/\udcff", "x" * 256, "é" * 128, "a/" + "é" * 128, "/".join(["x" * 200] * 6)),
        *(None, 0, True, b"a", ["a"], {"a": 1}),
    ],
    ids=ascii,
)
def test_hostile_path(path: object) -> None:
    with pytest.raises(InvalidInput, match=r"^models\[0\] \(minilm\)\.files\[1\]\.path: expected .*, found "):
        parse_models([{**MODEL, "files": [FILE, {**FILE, "path": path}]}])


@pytest.mark.parametrize(
    "path", ["a", "...", "..a", "a..", ".git", "-rf", "~", "größe+100% #1.json", "$(id)", "模型/权重.bin", "é" * 127]
)
def test_harmless_path(path: str) -> None:
    assert check_path("path", path) == path


def test_path_that_is_too_deep() -> None:
    check_path("path", "/".join(["a"] * 64))
    with pytest.raises(InvalidInput, match="path: expected a path of at most 64 parts, found 'a/a/"):
        check_path("path", "/".join(["a"] * 65))


@pytest.mark.parametrize(
    "paths",
    [
        *(["a", "a"], ["a/b", "a/b"]),
        *(["a.bin", "A.bin"], ["Dir/a", "dir/b"], ["x/Dir/a", "x/dir/b"], ["straße", "STRASSE"], ["K", "\u212a"]),
        *(["\u00e9", "e\u0301"], ["\u00e9/a", "e\u0301/b"], ["\u212b", "\u00e5"], ["J\u030c\u0323", "\u01f0\u0323"]),
        *(["a", "a/b"], ["a/b", "a"], ["A", "a/b"], ["a/b/c", "a/B"]),
    ],
    ids=ascii,
)
def test_paths_that_cannot_lie_side_by_side(paths: list[str]) -> None:
    files = [{"path": path, "size": 0, "sha256": "0" * 64} for path in paths]
    with pytest.raises(InvalidInput, match=r"^models\[0\] \(minilm\)\.files: '.*' (and '|is a file and a directory)"):
        parse_models([{**MODEL, "files": files}])


@pytest.mark.parametrize("paths", [[], ["a", "b"], ["a/x", "a/y", "ab"], ["a.b", "a/b"], ["a/b/c", "a/c", "b/c"]])
def test_paths_that_can_lie_side_by_side(paths: list[str]) -> None:
    check_paths_agree("files", paths)


_letters = st.sampled_from(
    "jJsSßẞåÅK\u212a\u212bﬁﬀfi\u0130\u01f0\u03b9\u0390\u03a3\u03c2\u0301\u0323\u030a\u030c\u0345"
)


@given(st.text(_letters, min_size=1, max_size=4), st.data())
def test_what_unicode_calls_the_same_name_is_refused(name: str, data: st.DataObject) -> None:
    """Filesystems that ignore case compare names as the Unicode standard does (section 3.13, D145)."""

    def canonical_caseless(text: str) -> str:
        return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())

    changes: list[Callable[[str], str]] = [str.upper, str.lower, str.casefold, str.swapcase]
    changes += [lambda text, form=form: unicodedata.normalize(form, text) for form in ("NFC", "NFD")]  # type: ignore[misc]
    other = name
    for change in data.draw(st.lists(st.sampled_from(changes), min_size=1, max_size=3)):
        other = change(other)
    assume(canonical_caseless(name) == canonical_caseless(other))
    with pytest.raises(InvalidInput):
        check_paths_agree("files", [name, other])


@pytest.mark.parametrize("names", [["a", "a"], ["minilm", "MiniLM"]])
def test_models_whose_directories_clash(names: list[str]) -> None:
    with pytest.raises(InvalidInput, match="same path on some filesystems"):
        parse_models([{**MODEL, "name": name} for name in names])


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("name", ["", ".", "..", ".a", "-a", "a/b", "a b", "a\n", "a\0", "é", "x" * 129, None, 1]),
        ("repo_id", ["", "a/b/c", "/a", "a/", "../a", "a/..", "a--b", "-a/b", "a/b\n", "a b", "a/b?c", "a/b#c", None]),
        ("revision", ["", "a b", "a\n", "\0", "\ud800", "x" * 256, None, 1]),
        ("commit", ["", "main", "0" * 39, "0" * 41, "A" * 40, "g" * 40, "0" * 40 + "\n", "\u0660" * 40, 0, None]),
        ("files", [[], {}, "x", None, 1, [None], [[]], [{}], [{**FILE, "mode": 1}]]),
        ("requires", ["", 1, True, [], [1], {1: 2}]),
        ("smoke", ["", 1, True, [], [1], {1: 2}]),
    ],
)
def test_wrong_field_of_a_model(key: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(InvalidInput, match=rf"^models\[0\](\.| \(minilm\)\.){key}"):
            parse_models([{**MODEL, key: value}])


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("size", [True, False, -1, MAX_FILE_SIZE + 1, 1 << 64, 10**400, 1.0, "1", None, float("inf"), [1]]),
        ("size", [10**5000]),
        ("sha256", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n", "\u0660" * 64, 0, None, "0" * 10_000]),
    ],
)
def test_wrong_field_of_a_file(key: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(InvalidInput, match=rf"^models\[0\].*\.{key} \(model\.safetensors\): expected ") as caught:
            parse_models([{**MODEL, "files": [{**FILE, key: value}]}])
        assert len(str(caught.value)) < 300


def test_what_was_found_is_shown_as_far_as_it_helps() -> None:
    for value in ("sentence-transformers/all--MiniLM-L6-v2", "x/" * 40):
        with pytest.raises(InvalidInput) as caught:
            parse_models([{**MODEL, "repo_id": value}])
        assert str(caught.value).endswith(f", found {value!r}")
    for long in ("x" * 10_000, ["x" * 100] * 100, {"x" * 100 + str(number): number for number in range(100)}):
        with pytest.raises(InvalidInput) as caught:
            parse_models([{**MODEL, "repo_id": long}])
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("size", [0, MAX_FILE_SIZE])
def test_limits_of_the_size(size: int) -> None:
    (model,) = parse_models([{**MODEL, "files": [{**FILE, "size": size}]}])
    assert model.files[0].size == size


@pytest.mark.parametrize("key", ["name", "repo_id", "revision", "commit", "files", "path", "size", "sha256"])
def test_missing_key_is_named(key: str) -> None:
    if key in MODEL:
        document = {name: value for name, value in MODEL.items() if name != key}
    else:
        document = {**MODEL, "files": [{name: value for name, value in FILE.items() if name != key}]}
    with pytest.raises(InvalidInput, match=rf": {key} missing$"):
        parse_models([document])


def test_two_sizes_of_one_content() -> None:
    files = [FILE, {**FILE, "path": "copy", "size": 5}]
    with pytest.raises(InvalidInput, match="copy of minilm has 5 bytes, another file with the same SHA-256"):
        parse_models([{**MODEL, "files": files}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("lock_version: 1\nmodels: []\n", "not valid JSON"),
        ("\ufeff" + as_text([MODEL]), "not valid JSON"),
        (as_text([MODEL])[:-1], "not valid JSON"),
        ('{"lock_version": 1, "models": [], "models": []}', "occurs twice"),
        (as_text([MODEL]).replace('"size": 4', '"size": 4, "size": 5'), "occurs twice"),
        (as_text([MODEL]).replace('"size": 4', f'"size": {"9" * 5000}'), "size|not valid JSON"),
        ("[]", "expected a mapping"),
        ("{}", "lock_version, models missing"),
        (as_text([], generated="today"), "unknown key generated"),
        *(
            (as_text([], lock_version=version), "lock_version: expected 1")
            for version in (0, 2, -1, "1", True, None, [1])
        ),
    ],
    ids=lambda value: value[:20],
)
def test_text_that_is_no_lock(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^models\.lock\.json: .*({message})"):
        parse_lock(text, "models.lock.json")


# Round trip and digest.

_parts = st.text(st.sampled_from("abAz.-_ é模"), min_size=1, max_size=4).filter(lambda part: part not in (".", ".."))
_paths = st.lists(_parts, min_size=1, max_size=3).map("/".join)
_contents = st.integers(0, 3).map(lambda size: (size, f"{size:064x}"))


def _agree(paths: Any) -> bool:
    return result_or_refusal(check_paths_agree, "paths", paths) is None


_models = st.builds(
    Model,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,5}", fullmatch=True),
    repo_id=st.sampled_from(["gpt2", "acme/minilm"]),
    revision=st.sampled_from(["main", "refs/pr/1", "größe"]),
    commit=st.sampled_from(["0" * 40, "1" * 40]),
    files=st.dictionaries(_paths, _contents, min_size=1, max_size=4)
    .filter(_agree)
    .map(lambda files: tuple(File(path, *content) for path, content in files.items())),
    requires=st.none() | st.just({}) | st.just({"gpu_memory_mib": 1024, "größe": [1.5, None]}),
    smoke=st.none() | st.just({"kind": "embedding"}),
)
_locks = st.lists(_models, max_size=3).filter(lambda models: _agree(model.name for model in models)).map(tuple)


@settings(max_examples=100)
@given(_locks, st.randoms(use_true_random=False))
def test_round_trip_does_not_depend_on_the_order(models: tuple[Model, ...], order: random.Random) -> None:
    text = dump_lock(models)
    shuffled = list(models)
    order.shuffle(shuffled)
    assert dump_lock(shuffled) == text
    assert set(map(repr, parse_lock(text, "lock"))) == set(map(repr, models))
    assert dump_lock(parse_lock(text, "lock")) == text
    assert text.endswith("}\n")


@settings(max_examples=100)
@given(_locks, _locks, st.randoms(use_true_random=False))
def test_digest_is_equal_only_for_equal_content(
    first: tuple[Model, ...], second: tuple[Model, ...], order: random.Random
) -> None:
    def content(models: tuple[Model, ...]) -> Any:
        return {(model.name, model.repo_id, model.commit, frozenset(model.files)) for model in models}

    assert (lock_digest(first) == lock_digest(second)) == (content(first) == content(second))
    shuffled = [replace(model, files=tuple(order.sample(model.files, len(model.files)))) for model in first]
    order.shuffle(shuffled)
    assert lock_digest(shuffled) == lock_digest(first)


def _change_file(**changes: Any) -> Callable[[Model], Model]:
    return lambda model: replace(model, files=(replace(model.files[0], **changes), *model.files[1:]))


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (lambda model: replace(model, name="other"), True),
        (lambda model: replace(model, repo_id="acme/other"), True),
        (lambda model: replace(model, commit="f" * 40), True),
        (lambda model: replace(model, files=model.files[1:]), True),
        (lambda model: replace(model, files=(*model.files, File("more", 0, "0" * 64))), True),
        (_change_file(path="other"), True),
        (_change_file(size=12345), True),
        (_change_file(sha256="f" * 64), True),
        (lambda model: replace(model, requires={"gpus": 8}), False),
        (lambda model: replace(model, smoke={"kind": "text"}), False),
        (lambda model: replace(model, revision="v2"), False),
    ],
    ids=[
        "name",
        "repo_id",
        "commit",
        "file less",
        "file more",
        "path",
        "size",
        "sha256",
        "requires",
        "smoke",
        "revision",
    ],
)
def test_digest_reacts_to_what_is_on_disk(change: Callable[[Model], Model], counts: bool) -> None:
    first, *others = models_of(SMALL)
    assert (lock_digest([change(first), *others]) != lock_digest([first, *others])) is counts


def test_lock_can_be_reviewed() -> None:
    """One line for each fact, and nothing in escapes: people read it as a difference."""
    (model,) = parse_models([{**MODEL, "requires": {"größe": 1}}])
    lines = dump_lock([model]).splitlines()
    assert '          "path": "model.safetensors",' in lines
    assert '        "größe": 1' in lines
