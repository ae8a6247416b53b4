# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Prometheus is told of a store."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._blocks import BLOCK_SIZE
from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._inspect import inspect
from ansible_collections.gpufleet.models.plugins.module_utils._ledger import Ledger
from ansible_collections.gpufleet.models.plugins.module_utils._manifest import Manifest
from ansible_collections.gpufleet.models.plugins.module_utils._metrics import (
    Health,
    Run,
    corrupt_blocks,
    health_of,
    last_run,
    render,
)
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.module_utils._verify import examine, record
from tests.unit.stores import LLAMA, MINILM, NEVER, SMALL, blob_path, flip, models_of, serve, served_path

COMMIT = "0" * 40
A, B = "a" * 64, "b" * 64


def test_the_text() -> None:
    manifest = Manifest(7, models_of({"m": {"f": b"1"}}))
    models = [Health("tiny", COMMIT, True, 1700000000.0, 0), Health("big", "1" * 40, False, 0, 3)]
    assert render(manifest, models, Run(1700000100.0, False, 12.25, 1 << 40)).splitlines() == [
        "# HELP gpufleet_model_verified Whether every file of the served model is as the lock says, as far as it was "
        "looked at.",
        "# TYPE gpufleet_model_verified gauge",
        f'gpufleet_model_verified{{model="tiny",commit="{COMMIT}"}} 1',
        f'gpufleet_model_verified{{model="big",commit="{"1" * 40}"}} 0',
        "# HELP gpufleet_model_last_verified_timestamp_seconds When the file of the model that was hashed longest ago "
        "was found whole; 0 while one never was.",
        "# TYPE gpufleet_model_last_verified_timestamp_seconds gauge",
        f'gpufleet_model_last_verified_timestamp_seconds{{model="tiny",commit="{COMMIT}"}} 1700000000',
        f'gpufleet_model_last_verified_timestamp_seconds{{model="big",commit="{"1" * 40}"}} 0',
        "# HELP gpufleet_model_corrupt_blocks_total Blocks of 16 MiB of the model that were found damaged.",
        "# TYPE gpufleet_model_corrupt_blocks_total counter",
        f'gpufleet_model_corrupt_blocks_total{{model="tiny",commit="{COMMIT}"}} 0',
        f'gpufleet_model_corrupt_blocks_total{{model="big",commit="{"1" * 40}"}} 3',
        "# HELP gpufleet_generation_info The generation that is served.",
        "# TYPE gpufleet_generation_info gauge",
        f'gpufleet_generation_info{{generation="7",lock_digest="{manifest.digest}"}} 1',
        "# HELP gpufleet_verification_last_run_timestamp_seconds When the last run of the verification ended.",
        "# TYPE gpufleet_verification_last_run_timestamp_seconds gauge",
        "gpufleet_verification_last_run_timestamp_seconds 1700000100",
        "# HELP gpufleet_verification_last_run_success Whether it came to its end and left nothing damaged.",
        "# TYPE gpufleet_verification_last_run_success gauge",
        "gpufleet_verification_last_run_success 0",
        "# HELP gpufleet_verification_last_run_duration_seconds How long it took.",
        "# TYPE gpufleet_verification_last_run_duration_seconds gauge",
        "gpufleet_verification_last_run_duration_seconds 12.25",
        "# HELP gpufleet_verification_last_run_hashed_bytes How much it read and hashed.",
        "# TYPE gpufleet_verification_last_run_hashed_bytes gauge",
        f"gpufleet_verification_last_run_hashed_bytes {1 << 40}",
    ]


def test_nothing_is_told_where_nothing_is_known() -> None:
    assert render(None, [], None) == ""


def test_label_values_are_escaped() -> None:
    text = render(None, [Health('a\\b"c\nd', COMMIT, True, 1, 0)], None)
    assert f'gpufleet_model_verified{{model="a\\\\b\\"c\\nd",commit="{COMMIT}"}} 1\n' in text
    assert text.endswith("\n")


def corrupt(blocks: Any, sha256: str = A) -> dict[str, Any]:
    return {"event": "corrupt", "sha256": sha256, "blocks": blocks}


VERIFIED = {"event": "verified", "sha256": A}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], {}),
        ([VERIFIED], {}),
        ([corrupt([1, 2])], {A: 2}),
        # Found again, as nobody mended them; then one more.
        ([corrupt([1, 2]), corrupt([1, 2])], {A: 2}),
        ([corrupt([1]), corrupt([1, 2])], {A: 2}),
        # Mended, and damaged anew.
        ([corrupt([1]), VERIFIED, corrupt([1])], {A: 2}),
        # It is lost: all blocks of it. It has bytes too many: no block is wrong, yet it is.
        ([corrupt(None)], {A: 3}),
        ([corrupt([0]), corrupt(None)], {A: 3}),
        ([corrupt([])], {A: 1}),
        ([corrupt(None, B)], {B: 1}),
        # Of no interest, or no line of ours.
        ([corrupt([1], "c" * 64), {"event": "corrupt"}, {"sha256": A}, {"event": "staged", "generation": 1}], {}),
        ([corrupt([[1], "2", None])], {A: 1}),
        ([corrupt("1")], {A: 3}),
    ],
)
def test_corrupt_blocks(events: list[dict[str, Any]], expected: dict[str, int]) -> None:
    assert corrupt_blocks(events, {A: 2 * BLOCK_SIZE + 1, B: 0}) == expected


def health(store: Store) -> dict[str, Health]:
    generations = Generations(store)
    number = generations.current()
    assert number is not None
    manifest = generations.manifest(number)
    return {model.name: model for model in health_of(manifest, inspect(store, manifest), Ledger(store.root))}


def verify(store: Store) -> None:
    found = examine(store, Generations(store).manifest(1), True, None, NEVER)
    record(store, found, [])


def test_a_model_is_verified_when_all_its_files_were(store: Store) -> None:
    serve(store, SMALL)
    assert {(model.verified, model.last_verified) for model in health(store).values()} == {(False, 0)}
    before = datetime.datetime.now(datetime.timezone.utc).timestamp()
    verify(store)
    found = health(store)
    assert list(found) == ["minilm", "llama"]
    for model in found.values():
        assert model.verified
        assert model.last_verified >= int(before)
        assert model.corrupt_blocks == 0


def test_damage_shows_at_every_model_that_has_the_file_until_it_was_mended(store: Store) -> None:
    serve(store, {**SMALL, "copy": {"weights": LLAMA["weights/model-1.safetensors"]}})
    verify(store)
    blob = blob_path(store, LLAMA["weights/model-1.safetensors"])
    flip(blob, 5)
    # Nobody has hashed it yet.
    assert all(model.verified for model in health(store).values())
    for _night in range(2):
        verify(store)
        found = health(store)
        assert {name: (model.verified, model.corrupt_blocks) for name, model in found.items()} == {
            "minilm": (True, 0),
            "llama": (False, 1),
            "copy": (False, 1),
        }
        assert found["llama"].last_verified > 0
    flip(blob, 5)
    verify(store)
    assert all(model.verified for model in health(store).values())
    assert health(store)["llama"].corrupt_blocks == 1


def test_what_a_look_shows_counts_at_once_but_not_a_time(store: Store) -> None:
    serve(store, SMALL)
    verify(store)
    os.utime(blob_path(store, MINILM["vocab.txt"]))
    assert all(model.verified for model in health(store).values())
    served_path(store, "llama/config.json").unlink()
    assert {name: model.verified for name, model in health(store).items()} == {"minilm": True, "llama": False}


def test_the_last_run_is_in_the_ledger(store: Store, tmp_path: Path) -> None:
    ledger = Ledger(store.root)
    assert last_run(ledger) is None
    ledger.append([Run(0, True, 1.5, 10).event(), Run(0, False, 2.5, 20).event(), {"event": "staged"}])
    run = last_run(ledger)
    assert run is not None
    assert (run.success, run.seconds, run.hashed_bytes) == (False, 2.5, 20)
    assert run.at > 1700000000


@pytest.mark.parametrize("seconds", ["NaN", "1e999", "null", '"3"'])
def test_a_run_that_is_none_is_passed_over(store: Store, seconds: str) -> None:
    Path(store.path, "ledger.jsonl").write_text(
        f'{{"event": "verification_run", "seconds": {seconds}, "hashed_bytes": 1, "success": true}}\n'
    )
    assert last_run(Ledger(store.root)) is None


@pytest.mark.parametrize("at", ["", "yesterday", "0001-01-01T00:00:00", 5, None])
def test_a_time_that_is_none_is_told_as_never(store: Store, at: object) -> None:
    serve(store, {"m": {"f": b"1"}})
    verify(store)
    path = Path(store.path, "ledger.jsonl")
    event = json.loads(path.read_text().splitlines()[-1])
    path.write_text(json.dumps({**event, "at": at}) + "\n")
    found = health(store)["m"]
    assert found.last_verified <= 0
    assert found.verified
