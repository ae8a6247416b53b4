# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The gate before anything is changed: GPUs through NVML's binary interface, disk space, endpoint and token."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from tests.hub.faults import BlackHole, CloseConnection, Status, rate_limited
from tests.integration.harness import TOKEN, Host, assert_sentence, wait_until
from tests.nvml import H100, build, write
from tests.nvml import host as gpu_host

TOO_MUCH = {"gpus": 2, "gpu_memory_mib": 24576, "compute_capability": "10.0"}

Gpus = Callable[..., None]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the library is that answers in the place of NVIDIA's."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment with nvidia-ml-py."""
    spec = importlib.util.find_spec("pynvml")
    assert spec is not None
    assert spec.origin is not None
    site_packages = tmp_path / "env" / "lib" / "python3.12" / "site-packages"
    site_packages.mkdir(parents=True)
    shutil.copy(spec.origin, site_packages)
    return tmp_path / "env"


@pytest.fixture
def gpus(host: Host, library: Path, tmp_path: Path) -> Gpus:
    """Give the host GPUs."""

    def gpus(description: dict[str, Any]) -> None:
        host.variables = {"LD_LIBRARY_PATH": str(library), **write(description, tmp_path / "nvml")}

    return gpus


def test_gpu_info(host: Host, gpus: Gpus, venv: Path) -> None:
    gpus(gpu_host(H100, H100))
    result = host.ok(host.run("gpu_info", venv=str(venv), expected_gpus=2))
    assert not result.changed
    assert result.problems == []
    assert [gpu["uuid"] for gpu in result.gpus] == [H100["uuid"]] * 2
    result = host.ok(host.run("gpu_info", venv=str(venv), expected_gpus=8))
    assert result.msg == "expected 8 GPUs, found 2"


def test_gpu_info_without_a_driver(host: Host, venv: Path) -> None:
    result = host.ok(host.run("gpu_info", venv=str(venv), _ansible_check_mode=True))
    assert not result.available
    assert [problem["reason"] for problem in result.problems] == ["library_missing"]


def test_nothing_is_missing(host: Host, gpus: Gpus, hub: Hub, tiny: dict[str, Any], venv: Path) -> None:
    gpus(gpu_host(H100, H100))
    wanted = {**tiny, "requires": {"gpus": 2, "gpu_memory_mib": 80000, "compute_capability": "9.0"}}
    result = host.ok(host.run("model_preflight", models=[wanted], venv=str(venv)))
    assert not result.changed
    assert result.problems == []
    assert result.download_bytes == sum(file["size"] for file in tiny["files"])
    assert not host.root.exists()
    assert hub.stats.bytes_sent(method="GET") < 4000  # a byte, and the headers of weights


def test_what_the_store_holds_is_told_as_well(serving: Host, big: dict[str, Any], venv: Path) -> None:
    """Also where something is missing."""
    huge = {"path": "huge.bin", "size": 1 << 44, "sha256": "0" * 64}
    for models in ([big], [{**big, "files": [*big["files"], huge]}]):
        result = serving.run("model_preflight", models=models, venv=str(venv))
        told = serving.ok(serving.run("model_store_info")).values
        # Other programs take and free space all the time.
        assert result.store.keys() - told.keys() == set()
        assert {name for name in result.store if result.store[name] != told[name]} <= {"free_bytes"}
        assert result.store["current"] == 1
    assert result.failed


def test_what_has_to_be_staged_is_told(serving: Host, tiny: dict[str, Any], big: dict[str, Any], venv: Path) -> None:
    """By the same plan as staging makes."""
    for models, generation in (([tiny], 1), ([big], None), ([tiny, big], None)):
        result = serving.ok(serving.run("model_preflight", models=models, venv=str(venv)))
        planned = serving.run("model_generation", models=models, state="staged", _ansible_check_mode=True)
        assert result.generation == serving.ok(planned).generation == generation
        assert result.models == planned.models


def test_everything_that_is_missing_is_told_at_once(
    host: Host, gpus: Gpus, hub: Hub, tiny: dict[str, Any], big: dict[str, Any], venv: Path
) -> None:
    gpus(gpu_host(H100, {**H100, "errors": {"nvmlDeviceGetHandleByIndex_v2": 15}}, driver_version="535.183.01"))
    torch = venv / "lib" / "python3.12" / "site-packages" / "torch"
    torch.mkdir()
    (torch / "version.py").write_text("__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n", encoding="utf-8")
    huge = {"path": "huge.bin", "size": 1 << 44, "sha256": "0" * 64}
    hub.faults.add(Status(404, headers={"X-Error-Code": "EntryNotFound"}, path="*/acme/big/*"))
    wanted = [{**tiny, "requires": TOO_MUCH}, {**big, "files": [*big["files"], huge], "requires": {}}]
    result = host.run("model_preflight", models=wanted, venv=str(venv))
    assert_sentence(result, "nothing was changed")
    space, endpoint, memory, driver = result.problems
    assert "the disk is too small" in space
    assert "of big cannot be received: HTTP 404" in endpoint
    assert memory.startswith(
        "tiny: expected 2 GPUs with at least 24576 MiB of memory and compute capability 10.0, "
        "found NVIDIA H100 80GB HBM3 (81559 MiB, 9.0) (GPU 1: it has fallen off the bus;"
    )
    assert "expected NVIDIA driver 580 or later, found 535.183.01" in driver
    for problem in result.problems:
        assert problem in result.msg
    assert not host.root.exists()


def test_weights_that_no_gpu_has_the_memory_for(
    host: Host, gpus: Gpus, hub: Hub, big: dict[str, Any], venv: Path
) -> None:
    """Told by the header of the weights, of which nothing else is received."""
    gpus(gpu_host({**H100, "memory": {"total": 12 << 20, "free": 12 << 20}}))
    wanted = {**big, "requires": {}}
    result = host.run("model_preflight", models=[wanted], venv=str(venv))
    assert_sentence(
        result, "big: its weights need 20 MiB in float32, and a GPU has at most 12 MiB; nothing was changed"
    )
    assert hub.stats.bytes_sent(method="GET") < 1000
    wanted["smoke"] = {"dtype": ["float16", "int8"]}
    assert host.ok(host.run("model_preflight", models=[wanted], venv=str(venv))).problems == []
    wanted["smoke"] = {"dtype": "float32"}
    wanted["requires"] = {"gpus": 2}
    gpus(gpu_host(*[{**H100, "memory": {"total": 12 << 20, "free": 12 << 20}}] * 2))
    assert host.ok(host.run("model_preflight", models=[wanted], venv=str(venv))).problems == []


@pytest.mark.parametrize(
    ("error", "words"),
    [(9, "driver_not_loaded"), (18, "reboot the host"), (999, "NVML error 999")],
)
def test_driver_does_not_answer(
    host: Host, gpus: Gpus, tiny: dict[str, Any], venv: Path, error: int, words: str
) -> None:
    gpus(gpu_host(H100, errors={"nvmlInit": error}))
    for check in (True, False):
        result = host.run(
            "model_preflight", models=[{**tiny, "requires": {}}], venv=str(venv), _ansible_check_mode=check
        )
        assert_sentence(result, "tiny: a GPU is required, and", words.replace("driver_not_loaded", "is not loaded"))


def test_environment_that_is_still_to_be_made(host: Host, tiny: dict[str, Any], tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"models": [{**tiny, "requires": {}}], "venv": str(tmp_path / "none")}
    host.ok(host.run("model_preflight", **arguments, _ansible_check_mode=True))
    assert_sentence(host.run("model_preflight", **arguments), "tiny: a GPU is required", "nvidia-ml-py", "python_venv")


def test_gpus_are_not_asked_for_models_without_requirements(host: Host, tiny: dict[str, Any], tmp_path: Path) -> None:
    host.ok(host.run("model_preflight", models=[tiny], venv=str(tmp_path / "none")))


def test_nobody_listens(host: Host, tiny: dict[str, Any]) -> None:
    result = host.run("model_preflight", models=[tiny], endpoint="http://127.0.0.1:9")
    assert_sentence(result, "http://127.0.0.1:9: ", "cannot be received", "efused")


def test_a_cdn_that_refuses(host: Host, hub: Hub, big: dict[str, Any]) -> None:
    hub.faults.add(Status(403, origin="cdn"))
    assert_sentence(
        host.run("model_preflight", models=[big]), "weights.safetensors of big cannot be received: HTTP 403"
    )


def test_a_certificate_is_one_problem_of_several(host: Host, tiny: dict[str, Any], tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"models": [{**tiny, "requires": {}}], "venv": str(tmp_path / "none")}
    host.variables = {"HTTP_PROXY": "http://"}
    result = host.run("model_preflight", **arguments)
    assert_sentence(result, "http_proxy: expected the URL of a proxy", "nvidia-ml-py")
    assert len(result.problems) == 2


def test_an_endpoint_that_never_comes_to_an_end(host: Host, hub: Hub, tiny: dict[str, Any]) -> None:
    hub.faults.add(BlackHole())
    process = host.start("model_preflight", models=[tiny])
    wait_until(lambda: bool(hub.stats.requests()), "a request")
    process.send(signal.SIGTERM)
    assert_sentence(process.finish(timeout=5), "stopped")


def test_an_endpoint_with_a_password(host: Host, tiny: dict[str, Any]) -> None:
    result = host.run("model_preflight", models=[tiny], endpoint="http://bob:s3cret@127.0.0.1:9")
    assert_sentence(result, "endpoint: expected a URL without user and password")
    assert "s3cret" not in result.msg


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("mode", "pynvml.py can be written by everybody"),
        ("owner", "pynvml.py belongs to nobody"),
        ("above", "env belongs to nobody"),
    ],
)
def test_a_binding_that_another_account_could_replace_is_not_run(
    host: Host, gpus: Gpus, tiny: dict[str, Any], venv: Path, tmp_path: Path, what: str, words: str
) -> None:
    gpus(gpu_host(H100))
    (binding,) = venv.rglob("pynvml.py")
    binding.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    if what == "mode":
        binding.chmod(0o666)
    else:
        os.chown(binding if what == "owner" else venv, 65534, 65534)
    result = host.run("model_preflight", models=[{**tiny, "requires": {}}], venv=str(venv))
    assert_sentence(result, words, "could replace what runs")
    assert not (tmp_path / "ran").exists()


def test_gated_repository(host: Host, hub: Hub, tiny: dict[str, Any], tiny_directory: Path) -> None:
    hub.add_repo("acme/gated", tiny_directory, gated=True)
    wanted = {**tiny, "repo_id": "acme/gated"}
    assert_sentence(host.run("model_preflight", models=[wanted]), "cannot be received: HTTP 401")
    result = host.ok(host.run("model_preflight", models=[wanted], token=TOKEN))
    assert TOKEN not in result.output


def test_a_hub_that_asks_to_wait_is_there(host: Host, hub: Hub, tiny: dict[str, Any]) -> None:
    hub.faults.add(rate_limited(seconds=120))
    result = host.ok(host.run("model_preflight", models=[tiny]))
    assert result.seconds < 10


def test_a_failure_that_passes_is_none(host: Host, hub: Hub, tiny: dict[str, Any]) -> None:
    hub.faults.add(Status(502, times=1))
    hub.faults.add(CloseConnection(times=1))
    host.ok(host.run("model_preflight", models=[tiny]))


def test_what_is_served_needs_no_endpoint(serving: Host, tiny: dict[str, Any], hub: Hub) -> None:
    hub.stats.reset()
    result = serving.ok(serving.run("model_preflight", models=[tiny]))
    assert result.download_bytes == 0
    assert not hub.stats.exchanges()


@pytest.mark.parametrize("models", [[], [{"name": "x"}], "x"])
def test_wrong_models(host: Host, models: Any) -> None:
    assert_sentence(host.run("model_preflight", models=models))


def test_wrong_requirements(host: Host, gpus: Gpus, tiny: dict[str, Any], venv: Path) -> None:
    gpus(gpu_host(H100))
    wanted = {**tiny, "requires": {"vram": 1}}
    assert_sentence(host.run("model_preflight", models=[wanted], venv=str(venv)), "tiny.requires: unknown key vram")
