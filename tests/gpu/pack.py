"""Put together what tests/gpu/run needs on a machine that no package registry can be reached from.

Such a machine has a Python with torch, transformers and accelerate. Into .cache/gpu go, some 60 MB: Ansible's side of
modules, bitsandbytes with its library for CUDA 13 alone, and the real all-MiniLM-L6-v2 in float16. It needs what
`make setup inference` makes:

    python -m tests.gpu.pack
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from tests.demo import minilm_files
from tests.gpu.environment import CARRIED

INFERENCE = CARRIED.parent / "inference"
MINILM = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")

_HALVE = """
import sys
import safetensors.torch as files
tensors = files.load_file(sys.argv[1])
files.save_file({name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}, sys.argv[2],
    metadata={"format": "pt"})
"""


def main() -> None:
    """Make the directory anew."""
    shutil.rmtree(CARRIED, ignore_errors=True)
    site = CARRIED / "site"
    spec = importlib.util.find_spec("ansible")
    if spec is None or spec.origin is None:
        sys.exit("ansible-core is missing from this Python; run 'make setup'")
    ansible = Path(spec.origin).parent
    (site / "ansible").mkdir(parents=True)
    for name in ("__init__.py", "release.py"):
        shutil.copy(ansible / name, site / "ansible")
    for name in ("module_utils", "_vendor"):
        _copy(ansible / name, site / "ansible" / name)
    packages = next((INFERENCE / "lib").glob("python3*")) / "site-packages"
    for directory in packages.glob("bitsandbytes*"):
        _copy(directory, site / directory.name)
    for library in (site / "bitsandbytes").glob("libbitsandbytes_*.so"):
        if not library.stem.startswith(("libbitsandbytes_cuda13", "libbitsandbytes_cpu")):
            library.unlink()
    minilm = CARRIED / "minilm"
    minilm.mkdir()
    for name in MINILM:
        shutil.copy(minilm_files() / name, minilm)
    weights = [minilm_files() / "model.safetensors", minilm / "model.safetensors"]
    subprocess.run([INFERENCE / "bin/python", "-c", _HALVE, *weights], check=True)
    size = sum(path.stat().st_size for path in CARRIED.rglob("*") if path.is_file())
    print(f"{CARRIED}: {size / 1e6:.0f} MB")


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


if __name__ == "__main__":
    main()
