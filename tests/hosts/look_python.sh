#!/bin/sh
# Print what Python environment a test host has, as YAML, without any help of the collection's. Usage: look_python.sh PATH
set -u
link=$1
export LC_ALL=C.UTF-8

echo "link: '$(readlink "$link")'"
echo "beside: '$(cd "$(dirname "$link")" 2>/dev/null && find . -maxdepth 1 -mindepth 1 | sort | tr '\n' ' ')'"
echo "environments: '$(find "$link.d" -maxdepth 1 -mindepth 1 -type d 2>/dev/null | sort | tr '\n' ' ')'"
echo "bytes: $(du --summarize --block-size=1 "$link.d" 2>/dev/null | cut -f 1)"
if [ -e "$link/bin/python" ]; then
    echo "python: '$("$link/bin/python" -c 'import platform; print(platform.python_version())')'"
    uv=$(find "$link.uv" -name 'uv-*')
    echo "check: '$("$uv" pip check --python "$link/bin/python" 2>&1 | tail -n 1)'"
    echo "packages:"
    "$link/bin/python" -c '
from importlib.metadata import distributions
for found in distributions():
    name = found.name.lower().replace("_", "-")
    print(f"  {name}: \"{found.version}\"")'
fi
