"""The cases, in the order in which they are run. Each returns figures, or tells why it failed or could not be run."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from tests.gpu.trial import MINILM, TINY, Failed, Figures, NotRun, Trial, figures_of
from tests.smoke import HELLO_WORLD

# What nvidia-smi is asked, and what gpu_info says of the same.
_QUERY: dict[str, Callable[[dict[str, Any]], Any]] = {
    "uuid": lambda gpu: gpu["uuid"],
    "name": lambda gpu: gpu["name"],
    "pci.bus_id": lambda gpu: gpu["pci_address"].rpartition(":")[0].rpartition(":")[2],
    "compute_cap": lambda gpu: gpu["compute_capability"],
    "memory.total": lambda gpu: gpu["memory"]["total_mib"],
    "enforced.power.limit": lambda gpu: gpu["power"]["limit_watts"],
    "ecc.mode.current": lambda gpu: gpu["ecc"] and ("Disabled", "Enabled")[gpu["ecc"]["enabled"]],
    "mig.mode.current": lambda gpu: gpu["mig"] and ("Disabled", "Enabled")[gpu["mig"]["enabled"]],
}
_NOTHING = ("[N/A]", "[Not Supported]", "N/A")

_CHECK_SECONDS = 5.0

# Takes all but half a GiB of the first GPU's memory until its input ends.
_HOG = """
import torch
taken = torch.empty(torch.cuda.mem_get_info()[0] - (512 << 20), dtype=torch.uint8, device="cuda")
print("ready", flush=True)
input()
"""


def gpu_info(trial: Trial) -> Figures:
    """Compare what gpu_info says with nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        raise NotRun("no nvidia-smi")
    facts = trial.succeed(trial.module("gpu_info", venv=str(trial.environment.venv))).values
    command = ["nvidia-smi", f"--query-gpu=driver_version,{','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    if facts["problems"]:
        raise Failed("; ".join(problem["message"] for problem in facts["problems"]))
    if len(rows) != len(facts["gpus"]):
        raise Failed(f"nvidia-smi lists {len(rows)} GPUs, gpu_info {len(facts['gpus'])}")
    for row, gpu in zip(rows, facts["gpus"], strict=True):
        driver, *values = (value.strip() for value in row.split(","))
        _compare("driver", facts["driver_version"], driver)
        for (name, read), value in zip(_QUERY.items(), values, strict=True):
            # The last but one part of the address: the driver writes domains with four or with eight digits.
            expected = value.lower().split(":")[-2] if name == "pci.bus_id" else value
            _compare(f"GPU {gpu['index']}: {name}", read(gpu), expected)
    versions = {key: facts[key] for key in ("driver_version", "cuda_driver_version", "kernel_module_version")}
    return {**versions, "compared": len(_QUERY), "gpus": [{key: gpu[key] for key in _SHOWN} for gpu in facts["gpus"]]}


_SHOWN = (
    "name",
    "compute_capability",
    "memory",
    "power",
    "temperature_celsius",
    "ecc",
    "mig",
    "nvlinks",
    "pci_address",
)


def _compare(what: str, found: Any, expected: str) -> None:
    if expected in _NOTHING:
        same = found in (None, False)
    elif isinstance(found, (int, float)):
        same = abs(found - float(expected)) <= 1
    else:
        same = found == expected
    if not same:
        raise Failed(f"{what}: nvidia-smi says {expected}, gpu_info {found}")


def gpu_check(trial: Trial) -> Figures:
    """Check that each GPU computes right."""
    trial.require_gpu()
    venv = str(trial.environment.venv)
    result = trial.succeed(trial.module("gpu_check", venv=venv, seconds=_CHECK_SECONDS, timeout=200)).values
    if result["verdict"] != "pass":
        raise Failed(f"expected the verdict pass, found {result['verdict']}: {result['msg']}")
    left_out = ("checks", "uuid", "ok", "processes")
    gpus = [{key: value for key, value in gpu.items() if key not in left_out} for gpu in result["gpus"]]
    return {"gpus": gpus, "peers": result["peers"], "checks": [check["check"] for check in result["gpus"][0]["checks"]]}


def stage(trial: Trial) -> Figures:
    """Stage the models from a Hub on this machine."""
    return trial.stage()


def inference(trial: Trial) -> Figures:
    """Run every kind of model, and compare what comes out with the processor's."""
    names = [name for name in TINY if trial.has(name)]
    if not names:
        raise NotRun("no models are staged")
    outcomes = trial.passed({name: {} for name in names}, golden=trial.golden(*names))
    return {name: figures_of(outcome) for name, outcome in outcomes.items()}


def minilm(trial: Trial) -> Figures:
    """Run the real all-MiniLM-L6-v2, and compare what comes out with what its publisher's library puts out."""
    trial.require_model(MINILM)
    wishes = {MINILM: {"dtype": "float32", "expect": {"dimension": 384}}}
    outcome = trial.passed(wishes, outputs=True)[MINILM]
    found = outcome["golden"]["outputs"][0][: len(HELLO_WORLD)]
    difference = max(abs(one - other) for one, other in zip(found, HELLO_WORLD, strict=True))
    if difference > trial.minilm_tolerance:
        raise Failed(f"Hello world: expected {HELLO_WORLD}, found {found}")
    return {**figures_of(outcome), "largest_difference": round(difference, 7)}


def half_precision(trial: Trial) -> Figures:
    """Run all-MiniLM-L6-v2 in two bytes for each value, and compare with the processor in float32."""
    return _types(trial, ("float16", "bfloat16"))


def quantized(trial: Trial) -> Figures:
    """Run all-MiniLM-L6-v2 in the types that bitsandbytes makes, and compare with the processor in float32."""
    trial.require_bitsandbytes()
    return _types(trial, ("int8", "nf4"))


def _types(trial: Trial, dtypes: tuple[str, ...]) -> Figures:
    trial.require_model(MINILM)
    golden = trial.golden(MINILM)
    figures = {}
    for dtype in dtypes:
        outcome = trial.passed({MINILM: {"dtype": dtype}}, golden=golden)[MINILM]
        _expect("the type", dtype, outcome["dtype"])
        figures[dtype] = figures_of(outcome)
    return figures


def large_model(trial: Trial) -> Figures:
    """Measure a model of a size that loads a GPU: tokens a second, utilization, and memory against the prediction."""
    trial.require_model(trial.large)
    outcome = trial.passed({trial.large: {}})[trial.large]
    predicted, measured = outcome["attempts"][0]["predicted_mib"], outcome["gpu_memory_mib"]
    figures = {"model": trial.large, "predicted_mib": predicted, **figures_of(outcome)}
    if trial.cuda:
        if not predicted * 0.98 <= measured <= predicted * 1.5 + 512:
            raise Failed(f"expected about the {predicted} MiB that were predicted, found {measured} MiB")
        if not outcome["gpu_utilization_percent"]:
            raise Failed(f"expected that the GPU is utilized, found {outcome['gpu_utilization_percent']} %")
    return figures


def cap_chooses_type(trial: Trial) -> Figures:
    """Have a limit of memory leave no room for the preferred type: the next one is run, within the limit."""
    return _capped(trial, ("float32", "bfloat16"), share=0.8)


def cap_chooses_quantized_type(trial: Trial) -> Figures:
    """The same with the types that bitsandbytes makes, down to each of them."""
    trial.require_gpu()
    trial.require_bitsandbytes()
    return {
        "int8": _capped(trial, ("bfloat16", "int8", "nf4"), share=0.8),
        "nf4": _capped(trial, ("bfloat16", "int8", "nf4"), share=0.5),
    }


def _capped(trial: Trial, dtypes: tuple[str, ...], share: float) -> Figures:
    """Bound the memory by a share of what the first type is predicted to take."""
    trial.require_gpu()
    most = int(_predicted(trial, dtypes[0]) * share)
    wishes = {trial.large: {"dtype": list(dtypes), "limits": {"gpu_memory_mib": most}}}
    outcome = trial.passed(wishes)[trial.large]
    attempts = outcome["attempts"]
    fitting = [attempt for attempt in attempts if attempt["predicted_mib"] <= most]
    if attempts[0]["reason"] != "too_large" or len(fitting) != 1:
        raise Failed(f"expected that {dtypes[0]} is too large for {most} MiB and another type is run, found {attempts}")
    if outcome["gpu_memory_mib"] > most:
        raise Failed(f"expected at most {most} MiB, found {outcome['gpu_memory_mib']}")
    return {"limit_mib": most, "attempts": _shown(attempts), **figures_of(outcome)}


def memory_runs_out(trial: Trial) -> Figures:
    """Have a type's weights fit by the prediction, and nothing beside them: memory runs out, the next type is run."""
    trial.require_gpu()
    most = _predicted(trial, "float32") + 1
    wishes = {trial.large: {"dtype": ["float32", "bfloat16"], "limits": {"gpu_memory_mib": most}}}
    outcome = trial.passed(wishes)[trial.large]
    _expect("the attempts", ["out_of_memory", None], [attempt["reason"] for attempt in outcome["attempts"]])
    return {"limit_mib": most, "attempts": _shown(outcome["attempts"]), **figures_of(outcome)}


def memory_runs_out_for_all(trial: Trial) -> Figures:
    """The same for all types: that is a result for this model, and another one passes beside it."""
    trial.require_gpu()
    most = _predicted(trial, "bfloat16") + 1
    wishes = {trial.large: {"dtype": ["bfloat16", "float16"], "limits": {"gpu_memory_mib": most}}, "bert": {}}
    result = trial.smoke(wishes)
    if not result.failed or "models" not in result.values:
        raise Failed(f"expected that {trial.large} fails, found {result.values.get('msg')}")
    outcomes = {model["name"]: model for model in result.values["models"]}
    attempts = outcomes[trial.large]["attempts"]
    _expect("the attempts", ["out_of_memory", "out_of_memory"], [attempt["reason"] for attempt in attempts])
    _expect("whether bert passes", True, outcomes["bert"]["ok"])
    return {"limit_mib": most, "attempts": _shown(attempts), "told": result.values["failures"]}


def users_are_named(trial: Trial) -> Figures:
    """Have another process take the GPU's memory: the failure names it."""
    trial.require_gpu()
    with _hog(trial) as pid:
        facts = trial.module("gpu_info", venv=str(trial.environment.venv)).values
        told = [process["pid"] for process in facts["gpus"][0]["processes"] or ()]
        result = trial.smoke({trial.large: {}})
    if not result.failed:
        raise Failed(f"expected that {trial.large} finds no memory, and it passed")
    if pid not in told:
        # Where processes have other numbers outside a container, NVML tells those, or none.
        raise NotRun(f"NVML does not name the process {pid}, but {told or 'none'}", lacking=False)
    if f"(pid {pid})" not in result.msg:
        raise Failed(f"expected that process {pid} is named, found {result.msg}")
    return {"told": result.values["failures"]}


def several_gpus(trial: Trial) -> Figures:
    """Spread a model over two GPUs, and compare with one."""
    trial.require_gpu()
    facts = trial.module("gpu_info", venv=str(trial.environment.venv)).values
    if len(facts["gpus"]) < 2:
        raise NotRun("no second GPU", lacking=False)
    alone = trial.passed({trial.large: {}}, outputs=True)[trial.large]["golden"]
    outcome = trial.passed({trial.large: {}}, golden=[alone], gpus=2)[trial.large]
    return {"device": outcome["device"], **figures_of(outcome)}


CASES = (
    gpu_info,
    gpu_check,
    stage,
    inference,
    minilm,
    half_precision,
    quantized,
    large_model,
    cap_chooses_type,
    cap_chooses_quantized_type,
    memory_runs_out,
    memory_runs_out_for_all,
    users_are_named,
    several_gpus,
)


def _predicted(trial: Trial, dtype: str) -> int:
    """Return what the large model is predicted to take, by having it refused."""
    trial.require_model(trial.large)
    result = trial.smoke({trial.large: {"dtype": dtype, "limits": {"gpu_memory_mib": 1}}})
    outcomes = {model["name"]: model for model in result.values.get("models", ())}
    attempt = outcomes[trial.large]["attempts"][0] if trial.large in outcomes else None
    if attempt is None or attempt["reason"] != "too_large":
        raise Failed(f"expected that {trial.large} is too large for one MiB, found {result.values.get('msg')}")
    return int(attempt["predicted_mib"])


@contextlib.contextmanager
def _hog(trial: Trial) -> Iterator[int]:
    process = subprocess.Popen(
        [trial.environment.interpreter(), "-c", _HOG],
        env={**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},  # the first one by NVML's count
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise Failed("another process could not take the GPU's memory")
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def _shown(attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: attempt[key] for key in ("dtype", "predicted_mib", "reason")} for attempt in attempts]


def _expect(what: str, expected: object, found: object) -> None:
    if found != expected:
        raise Failed(f"{what}: expected {expected}, found {found}")
