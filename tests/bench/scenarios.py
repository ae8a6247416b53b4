# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is measured: peers do the same work in turn, several times, each from the same state."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .peers import DOWNLOADERS, VERIFIERS, Job, Work, download_model_generation
from .process import BenchError, Usage, environment, on_cores, run, typical
from .python import measure_environments
from .report import Report, Row, Target
from .smoke import measure_smoke
from .workloads import MIB, Workload, Workloads, read_through, running_hub

CDN_RATE = 60 * MIB  # bytes a second for each connection
DELAY = 0.05  # seconds before each answer
OURS, HF = "model_generation", "hf download; hf cache verify"


@dataclass(frozen=True)
class Bench:
    """Where to measure, and how often. ``memory`` is a directory on a tmpfs, or None where there is none to use."""

    workloads: Workloads
    directory: Path
    memory: Path | None
    runs: int
    report: Report


def downloads(bench: Bench) -> None:
    """Nothing → downloaded and verified, where the processor, the disk, the connection or the latency is the limit."""
    work = bench.workloads
    places = [("disk", bench.directory)] + ([("tmpfs", bench.memory)] if bench.memory else [])
    for place, directory in places:
        for workload in (work.shards, work.single):
            name = f"{workload.label}, unlimited loopback, to {place}"
            medians = _download(bench, name, workload, directory)
            bench.report.targets.append(_times_hf(name, medians, 2))
            bench.report.targets.append(_ahead_of_all(name, medians))
    name = f"{work.single.label}, {CDN_RATE // MIB} MiB/s for each connection, to disk"
    medians = _download(bench, name, work.single, bench.directory, "--rate", str(CDN_RATE))
    bench.report.targets.append(_times_hf(name, medians, 3))

    prompt = _download(bench, f"{work.many.label}, to disk", work.many, bench.directory)
    name = f"The same, every answer {DELAY * 1000:.0f} ms late"
    late = _download(bench, name, work.many, bench.directory, "--delay", str(DELAY))
    added = late[OURS].seconds - prompt[OURS].seconds
    in_turn = DELAY * sum(1 for model in work.many.models for _file in model["files"])
    wanted = in_turn / 8  # it has eight connections
    bench.report.targets.append(
        Target(
            f"What it adds that answers are {DELAY * 1000:.0f} ms late, {in_turn:.1f} s one after the other",
            f"at most {wanted:.1f} s",
            f"{added:.1f} s",
            added <= wanted,
        )
    )


def _download(bench: Bench, name: str, workload: Workload, directory: Path, *hub_options: str) -> dict[str, Usage]:
    """Let the peers download a workload in turn; report and return what each of them typically costs."""
    usages: dict[str, list[Usage]] = {peer: [] for peer in DOWNLOADERS}
    flushes: dict[str, list[float]] = {peer: [] for peer in DOWNLOADERS}
    with running_hub(bench.directory, *hub_options) as endpoint:
        for _round in range(bench.runs):
            for peer, download in DOWNLOADERS.items():
                job = Job(workload, endpoint, _emptied(directory / "target"))
                work = download(job)
                usages[peer].append(_done(work, job))
                flushes[peer].append(_flush(job.target))
                _require_content(workload, work.tree)
    _emptied(directory / "target")
    medians = {peer: typical(found) for peer, found in usages.items()}
    for peer, found in usages.items():
        flush = median(flushes[peer])
        remark = f"on disk {flush:.1f} s later" if flush > 0.05 else ""
        bench.report.add(Row(name, peer, found, medians[HF].seconds / medians[peer].seconds, remark))
    return medians


def verification(bench: Bench) -> None:
    """Hash all of it again, page cache warm, on one core and on two, without what the same on next to nothing takes."""
    work = bench.workloads
    with running_hub(bench.directory) as endpoint:
        stores = {
            workload.label: _store(workload, endpoint, bench.directory / "stores" / workload.inventory.name)
            for workload in (work.tiny, work.shards, work.single)
        }
        jobs = {
            workload.label: Job(workload, endpoint, _emptied(bench.directory / "target" / workload.inventory.name))
            for workload in (work.tiny, work.shards, work.single)
        }
        _require_that_damage_is_found(jobs[work.tiny.label], stores[work.tiny.label])
        for cores in (1, 2):
            found: dict[tuple[str, str], list[Usage]] = {}
            for _round in range(bench.runs):
                for label, store in stores.items():
                    for peer, verify in VERIFIERS.items():
                        with on_cores(cores):
                            usage = _done(verify(jobs[label], store), jobs[label])
                        found.setdefault((label, peer), []).append(usage)
            start = {peer: typical(found[work.tiny.label, peer]) for peer in VERIFIERS}
            for workload in (work.shards, work.single):
                net = {peer: [usage.less(start[peer]) for usage in found[workload.label, peer]] for peer in VERIFIERS}
                _report_verification(bench, workload, cores, net, start)
    shutil.rmtree(bench.directory / "stores")
    shutil.rmtree(bench.directory / "target")


def _report_verification(
    bench: Bench, workload: Workload, cores: int, net: dict[str, list[Usage]], start: dict[str, Usage]
) -> None:
    name = f"{workload.label} verified again, {'one core' if cores == 1 else f'{cores} cores'}"
    medians = {peer: typical(usages) for peer, usages in net.items()}
    for peer, usages in net.items():
        seconds = medians[peer].seconds
        remark = f"{workload.size / seconds / 1e9:.2f} GB/s; without {start[peer].seconds:.2f} s of starting"
        bench.report.add(Row(name, peer, usages, medians["hf cache verify"].seconds / seconds, remark))
    if cores == 2:
        bench.report.targets.append(_times_hf(name, medians, 2, "model_verify", "hf cache verify"))


def second_site_run(bench: Bench) -> None:
    """Run ``site.yml`` where what it asks for is served already."""
    workload = bench.workloads.many
    target = _emptied(bench.directory / "target")
    with running_hub(bench.directory) as endpoint:
        variables = json.dumps(
            {
                "model_store_root": str(target / "store"),
                "model_store_endpoint": endpoint,
                "model_store_smoke": "off",  # the files are random: nothing could run them
                "cuda_driver_root": str(target / "no-hardware"),  # this machine's driver stays as it is
            }
        )
        inventory = str(workload.inventory / "hosts.json")
        command = ["ansible-playbook", "-i", inventory, "gpufleet.models.site", "-e", variables]
        environ = environment(target / "home", endpoint)
        run(command, environ)
        usages = []
        for _round in range(bench.runs):
            usage, text = run(command, environ)
            usages.append(usage)
            if not re.search(r"changed=0 .*failed=0", text):
                raise BenchError(f"the second run of site.yml changed something:\n{text}")
        _usage, text = run([*command, "-vvv"], environ)
    _emptied(target)
    seconds = typical(usages).seconds
    recap = re.search(r"ok=(\d+)", text)
    modules = len(re.findall(r"^Using module file ", text, re.MULTILINE))
    remark = f"{recap[1] if recap else '?'} tasks, {modules} of them run a module on the host"
    name = "Second run of site.yml, 4 models of 20 files"
    bench.report.add(Row(name, "ansible-playbook", usages, None, remark))
    bench.report.targets.append(Target(name, "at most 3 s", f"{seconds:.1f} s", seconds <= 3))


def python_environment(bench: Bench) -> None:
    """Install locked packages as the module and as pip do it."""
    measure_environments(bench.directory, bench.runs, bench.report)


def smoke_test(bench: Bench) -> None:
    """Load and run models as the module and as a plain script do it."""
    measure_smoke(bench.directory, bench.runs, bench.report)


def memory(bench: Bench) -> None:
    """The largest process of a transfer, for a file and for one several times its size."""
    with running_hub(bench.directory) as endpoint:
        for workload in (bench.workloads.shard, bench.workloads.huge):
            usages = []
            for _round in range(bench.runs):
                job = Job(workload, endpoint, _emptied(bench.directory / "target"))
                work = download_model_generation(job)
                usages.append(_done(work, job))
                _require_content(workload, work.tree)
            name = f"Memory of a transfer, {workload.label}"
            bench.report.add(Row(name, OURS, usages, None, ""))
            peak = typical(usages).peak_bytes / MIB
            bench.report.targets.append(Target(name, "at most 200 MiB", f"{peak:.0f} MiB", peak <= 200))
    _emptied(bench.directory / "target")


def _times_hf(name: str, medians: dict[str, Usage], wanted: float, ours: str = OURS, hf: str = HF) -> Target:
    times = medians[hf].seconds / medians[ours].seconds
    return Target(name, f"at least {wanted:g} times hf", f"{times:.2f} times", times >= wanted)


def _ahead_of_all(name: str, medians: dict[str, Usage]) -> Target:
    ours = medians[OURS].seconds
    best = min(usage.seconds for peer, usage in medians.items() if peer != OURS)
    return Target(f"{name}: ahead of all", f"less than {best:.1f} s", f"{ours:.1f} s", ours < best)


def _done(work: Work, job: Job) -> Usage:
    """Run the commands, and return what they cost together."""
    environ = environment(job.target / "home", job.endpoint)
    total = Usage(0, 0, 0)
    for command in work.commands:
        usage, _text = run(command, environ)
        total = total.then(usage)
    return total


def _emptied(directory: Path) -> Path:
    """Return an empty directory, with nothing left to be written to its disk."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    _flush(directory)
    return directory


def _flush(directory: Path) -> float:
    """Write what is not on the disk of a directory yet; return the seconds."""
    started = time.monotonic()
    run(["sync", "--file-system", str(directory)], {"PATH": "/usr/bin:/bin"})
    return time.monotonic() - started


def _store(workload: Workload, endpoint: str, directory: Path) -> Path:
    """Return a store that serves a workload, in the page cache."""
    job = Job(workload, endpoint, _emptied(directory))
    work = download_model_generation(job)
    _done(work, job)
    for _url, path, _sha256 in job.files():
        read_through(work.tree / path)
    return work.tree.parent


def _require_content(workload: Workload, tree: Path) -> None:
    files = [
        (tree / model["name"] / file["path"], file["sha256"]) for model in workload.models for file in model["files"]
    ]
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        for (path, expected), found in zip(files, executor.map(lambda file: _sha256(file[0]), files), strict=True):
            if found != expected:
                raise BenchError(f"{path} has SHA-256 {found}, expected {expected}")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _require_that_damage_is_found(job: Job, store: Path) -> None:
    """Flip a byte: every peer must fail, or it would be praised for work that it does not do."""
    path = store / "current" / next(path for _url, path, _sha256 in job.files())
    whole = path.read_bytes()
    path.chmod(0o644)
    try:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        for peer, verify in VERIFIERS.items():
            try:
                _done(verify(job, store), job)
            except BenchError:
                continue
            raise BenchError(f"{peer} did not find a flipped byte")
    finally:
        path.write_bytes(whole)
        path.chmod(0o444)
