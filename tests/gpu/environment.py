"""The Python that computes: what it has, and an environment around it as the modules expect one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What `python -m tests.gpu.pack` put together for a machine that no package registry can be reached from.
CARRIED = Path(__file__).resolve().parents[2] / ".cache" / "gpu"

_ASK = """
import importlib.metadata, json, site, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
names = sys.argv[1:]
told = {"python": sys.version.split()[0], "versions": {name: version(name) for name in names}}
told |= {"places": [place for place in sys.path if place.endswith("-packages")]}
told |= {"cuda": None, "gpus": [], "problem": None}
try:
    import pynvml
    told["pynvml"] = pynvml.__file__
except ImportError:
    told["pynvml"] = None
try:
    import torch
    told["cuda"] = torch.version.cuda
    torch.zeros(1, device="cuda")
    told["gpus"] = [torch.cuda.get_device_properties(gpu).name for gpu in range(torch.cuda.device_count())]
except Exception as error:
    told["problem"] = f"torch computes on no GPU: {' '.join(str(error).split())}"
print(json.dumps(told))
"""
_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "bitsandbytes",
    "safetensors",
    "tokenizers",
    "torchvision",
    "nvidia-ml-py",
    "xllamacpp",
)


@dataclass(frozen=True)
class Environment:
    """An environment with what loads and runs models.

    :ivar venv: Where it is.
    :ivar base: The Python that it has its packages from.
    :ivar python: That Python's version.
    :ivar versions: Of the packages that matter; None for one that is missing.
    :ivar cuda: The CUDA version that torch was built with, or None.
    :ivar gpus: The names of the GPUs that torch computes on.
    :ivar problem: Why torch computes on no GPU, or None.
    """

    venv: Path
    base: str
    python: str
    versions: dict[str, str | None]
    cuda: str | None
    gpus: list[str]
    problem: str | None

    def has(self, package: str) -> bool:
        """Whether a package is there."""
        return self.versions[package] is not None

    def interpreter(self) -> str:
        """Return its Python."""
        return str(self.venv / "bin" / "python")


def make_environment(python: str, directory: Path) -> Environment:
    """Make an environment that has the packages of a Python, and those that were carried along.

    :param python: Its path, or its name in PATH.
    :raises SystemExit: When there is no such Python, or it has no torch.
    """
    found = shutil.which(python)
    if found is None:
        raise SystemExit(f"{python} is no Python; name one that has torch with --python")
    told = _ask(found)
    if told["versions"]["torch"] is None:
        raise SystemExit(f"{found} has no torch; name a Python that has one with --python")
    venv = directory / "venv"
    subprocess.run([found, "-m", "venv", "--without-pip", venv], check=True)
    site_packages = next(venv.glob("lib/python3*/site-packages"))
    places = [str(CARRIED / "site"), *told["places"]]
    # With what their own .pth files say.
    lines = "".join(f"import site; site.addsitedir({place!r})\n" for place in places)
    (site_packages / "base.pth").write_text(lines, encoding="utf-8")
    if told["pynvml"] is not None:
        # The modules load it from the environment itself.
        shutil.copy(told["pynvml"], site_packages / "pynvml.py")
    told = _ask(str(venv / "bin" / "python"))
    kept = {key: told[key] for key in ("python", "versions", "cuda", "gpus", "problem")}
    return Environment(venv, found, **kept)


def _ask(python: str) -> dict[str, Any]:
    ended = subprocess.run([python, "-I", "-c", _ASK, *_PACKAGES], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{python} cannot be used: {ended.stderr.strip()[-500:]}")
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return told


def paths_of_modules() -> str:
    """Return where a module of the collection finds it, and Ansible where that has been carried along.

    :raises SystemExit: When Ansible is not there.
    """
    checkout = Path(__file__).resolve().parents[2]
    link = checkout / ".collections/ansible_collections/gpufleet/models"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to("../../..")
    places = [str(checkout / ".collections")]
    try:
        import ansible.module_utils.basic  # noqa: F401, PLC0415
    except ImportError:
        if not (CARRIED / "site/ansible").is_dir():
            raise SystemExit(
                "ansible-core is not there; run 'make setup', or 'python -m tests.gpu.pack' on a machine that has it"
            ) from None
        places.append(str(CARRIED / "site"))
    return os.pathsep.join(places)
