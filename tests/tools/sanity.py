"""Run every ansible-test sanity test on what git has or would add, with every Python of this machine that it knows.

Arguments are handed on, for example ``--test pylint`` or a file's path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from ansible_test._internal.python_requirements import get_venv_packages
from pythons import find_pythons, sound_path

CHECKOUT = Path(__file__).resolve().parents[2]
WORK = CHECKOUT / ".cache/sanity"


def copy_collection() -> Path:
    """Copy the collection below a directory named as ansible-test demands, and return the copy's path.

    The copy is a repository of its own: in the checkout's, which ignores it, ansible-test finds nothing and passes.
    """
    copy = WORK / "ansible_collections/gpufleet/models"
    shutil.rmtree(copy, ignore_errors=True)
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    for name in listing.stdout.split("\0")[:-1]:
        source = CHECKOUT / name
        # git also lists what is deleted and not yet committed so.
        if source.is_symlink() or source.exists():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    subprocess.run(["git", "init", "--quiet", copy], check=True)
    return copy


def make_home() -> Path:
    """Return a home directory for ansible-test, which keeps its virtual environments there.

    It fills them with a pip that it downloads from a server of its own, unless its cache has that script. One that
    calls ensurepip serves as well and needs no network. In the user's own home it would serve other collections too.
    """
    home = WORK / "home"
    cache = home / ".ansible/test/cache"
    cache.mkdir(parents=True, exist_ok=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    pip = get_venv_packages(SimpleNamespace(version=version))["pip"]
    (cache / f"get_pip_{pip.replace('.', '_')}.py").write_text(
        "import ensurepip\nensurepip.bootstrap(default_pip=True)\n", encoding="utf-8"
    )
    # Where pip finds packages stays the user's own choice.
    for name in (".config", ".netrc", ".pip"):
        (home / name).unlink(missing_ok=True)
        if (Path.home() / name).exists():
            (home / name).symlink_to(Path.home() / name)
    return home


def main() -> int:
    """Run ansible-test and return its exit status."""
    directories = [str(path.parent) for path in find_pythons().values()]
    environment = {
        **os.environ,
        "HOME": str(make_home()),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), *directories, *sound_path()]),
    }
    command = ["ansible-test", "sanity", "--color", "no", *sys.argv[1:]]
    return subprocess.run(command, cwd=copy_collection(), env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
