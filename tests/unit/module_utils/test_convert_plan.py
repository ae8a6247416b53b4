# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to be converted, and which generation has it already."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._convert import compare
from ansible_collections.gpufleet.models.plugins.module_utils._convert_plan import (
    ConversionPlan,
    Wish,
    converters,
    make_plan,
    make_wishes,
)
from ansible_collections.gpufleet.models.plugins.module_utils._derived import Derived
from ansible_collections.gpufleet.models.plugins.module_utils._errors import ContentError, InvalidInput, PythonError
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import File, Model
from ansible_collections.gpufleet.models.plugins.module_utils._manifest import Manifest
from tests.unit.stores import model_of

PACKAGES = {
    "nncf": "3.4.0",
    "numpy": "2.4.6",
    "openvino": "2026.4.1",
    "tokenizers": "0.23.3",
    "torch": "2.13.0+cpu",
    "transformers": "5.23.0",
}
FILES = {
    "config.json": json.dumps({"model_type": "bert"}).encode(),
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
}
CONVERT = {"format": "openvino", "bits": 8}
MINILM = model_of("minilm", FILES, convert=CONVERT)
OTHER = model_of("other", {**FILES, "model.safetensors": b"other weights"}, convert=CONVERT)
PLAIN = model_of("plain", FILES)


def wishes_of(directory: Path, *models: Model, packages: dict[str, str] | None = None) -> list[Wish]:
    for model in models:
        (directory / model.name).mkdir(exist_ok=True)
        (directory / model.name / "config.json").write_bytes(FILES["config.json"])
    return make_wishes(models, str(directory), converters(packages or PACKAGES, "/venv"))


def derived_of(wish: Wish, digit: str = "1") -> Derived:
    return Derived(wish.model.name, wish.key, (File("openvino/openvino_model.bin", 5, digit * 64),), {}, 0.999)


def plan(
    base: Manifest, wishes: list[Wish], *others: Manifest, whole: Collection[int] | None = None, damaged: str = ""
) -> ConversionPlan:
    manifests = {manifest.generation: manifest for manifest in (base, *others)}
    looks_whole = set(manifests) if whole is None else whole
    return make_plan(base, wishes, manifests, looks_whole, {digit * 64 for digit in damaged})


@pytest.fixture
def wishes(tmp_path: Path) -> list[Wish]:
    return wishes_of(tmp_path, MINILM, OTHER, PLAIN)


MODELS = (MINILM, OTHER, PLAIN)
BARE = Manifest(3, MODELS, served=True)


def test_only_what_is_to_be_converted(wishes: list[Wish]) -> None:
    assert [(wish.model.name, wish.subject.task, wish.source_bytes) for wish in wishes] == [
        ("minilm", "embedding", 7),
        ("other", "embedding", 13),
    ]


def test_nothing_was_converted_yet(wishes: list[Wish]) -> None:
    assert plan(BARE, wishes) == ConversionPlan(BARE, None, tuple(wishes), ())


def test_nothing_is_to_be_converted() -> None:
    assert plan(BARE, []) == ConversionPlan(BARE, 3, (), ())


def test_what_the_generation_has_itself(wishes: list[Wish]) -> None:
    own = replace(BARE, derived=tuple(map(derived_of, wishes)))
    later = replace(own, generation=5)
    assert plan(own, wishes, later).use == 3


def test_a_later_generation_has_it(wishes: list[Wish]) -> None:
    derived = tuple(map(derived_of, wishes))
    assert plan(BARE, wishes, Manifest(4, MODELS, derived=derived), Manifest(5, MODELS, derived=derived)).use == 5
    # Numbers only grow: an earlier one is not gone back to, but what it has is taken.
    assert plan(BARE, wishes, Manifest(2, MODELS, derived=derived)) == ConversionPlan(BARE, None, (), derived)
    # One with other models is another one.
    assert plan(BARE, wishes, Manifest(4, MODELS[:2], derived=derived)) == ConversionPlan(BARE, None, (), derived)


def test_some_were_made_before(wishes: list[Wish]) -> None:
    found = derived_of(wishes[0])
    assert plan(BARE, wishes, Manifest(2, MODELS, derived=(found,))) == ConversionPlan(
        BARE, None, (wishes[1],), (found,)
    )


def test_the_newest_is_taken(wishes: list[Wish]) -> None:
    old, new = derived_of(wishes[0], "1"), derived_of(wishes[0], "2")
    others = Manifest(1, MODELS, derived=(old,)), Manifest(2, MODELS, derived=(new,))
    assert plan(BARE, wishes, *others).take == (new,)
    assert plan(BARE, wishes, *others, damaged="2").take == (old,)
    assert plan(BARE, wishes, *others, damaged="12").take == ()


def test_what_is_damaged_is_made_again(wishes: list[Wish]) -> None:
    one, two = derived_of(wishes[0], "1"), derived_of(wishes[1], "2")
    own = replace(BARE, derived=(one, two))
    assert plan(own, wishes, damaged="2") == ConversionPlan(own, None, (wishes[1],), (one,))


def test_a_generation_that_looks_damaged_is_followed_by_another(wishes: list[Wish]) -> None:
    own = replace(BARE, derived=tuple(map(derived_of, wishes)))
    assert plan(own, wishes, whole=[]) == ConversionPlan(own, None, (), own.derived)


def test_what_is_not_wanted_any_more(wishes: list[Wish]) -> None:
    own = replace(BARE, derived=tuple(map(derived_of, wishes)))
    assert plan(own, wishes[:1]) == ConversionPlan(own, None, (), own.derived[:1])
    assert plan(own, []) == ConversionPlan(own, None, (), ())


def test_a_model_under_two_names_is_converted_for_both(tmp_path: Path) -> None:
    twin = replace(MINILM, name="twin")
    found = wishes_of(tmp_path, MINILM, twin)
    assert found[0].key == found[1].key
    one = derived_of(found[0])
    base = Manifest(1, (MINILM, twin), derived=(one,))
    assert plan(base, found).take == (one, replace(one, model="twin"))


def test_the_key_is_what_it_depends_on(tmp_path: Path) -> None:
    (key,) = {wish.key for wish in wishes_of(tmp_path, MINILM)}
    others = [
        replace(MINILM, files=OTHER.files),
        replace(MINILM, smoke={"task": "rerank"}),
    ]
    keys = [wishes_of(tmp_path, other)[0].key for other in others]
    keys += [wishes_of(tmp_path, MINILM, packages={**PACKAGES, name: "9999.1"})[0].key for name in ("nncf", "torch")]
    assert len({key, *keys}) == 5
    same = [replace(MINILM, commit="0" * 40, revision="v2", files=tuple(reversed(MINILM.files)))]
    assert [wish.key for wish in wishes_of(tmp_path, *same, packages={**PACKAGES, "numpy": "3.0"})] == [key]


def test_only_three_tasks(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^minilm: convert takes models for .*text2text, found generation$"):
        wishes_of(tmp_path, replace(MINILM, smoke={"task": "generation"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nncf": None, "torch": None}, "^/venv has no nncf, torch, which converting takes; give the host"),
        ({"openvino": "2024.5.0"}, "^/venv: converting takes openvino 2026 or later, found 2024.5.0; "),
        ({"transformers": "4.46.3"}, "^/venv: converting takes transformers 5 or later, found 4.46.3; "),
        ({"torch": "unknown"}, "^/venv: converting takes torch 2 or later, found unknown; "),
    ],
)
def test_environments_that_cannot_convert(change: dict[str, str | None], message: str) -> None:
    packages = {name: version for name, version in {**PACKAGES, **change}.items() if version is not None}
    with pytest.raises(PythonError, match=message):
        converters(packages, "/venv")


def test_what_converts_is_told() -> None:
    assert converters(PACKAGES, "/venv") == {name: PACKAGES[name] for name in PACKAGES if name != "numpy"}


def compared(expected: list[list[float]], outputs: list[list[float]]) -> float:
    return compare("tiny", {"dtype": "int8_asym", "expected": expected, "outputs": outputs})


def test_outputs_of_a_conversion_are_compared() -> None:
    assert compared([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.01], [0.0, 1.0]]) > 0.999
    with pytest.raises(ContentError, match=r"^tiny: converted, its outputs have a cosine of 0\.\d+ to those"):
        compared([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0], [0.5, 1.0, 0.0]])
    # Where only one of several is broken, too.
    for index in range(3):
        good = [[1.0, 0.0, 0.0] for _text in range(3)]
        bad = [[math.nan] if index == place else output for place, output in enumerate(good)]
        with pytest.raises(ContentError, match=r"^tiny: its own outputs are not finite numbers alone; "):
            compared(bad, good)
        with pytest.raises(ContentError, match=r"^tiny: its outputs, converted, are not finite numbers alone; "):
            compared(good, bad)
