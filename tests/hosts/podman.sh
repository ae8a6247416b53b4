#!/bin/sh
# podman, with the configuration that setup.sh found to be needed on this machine, if any.
set -eu
conf="$(cd "$(dirname "$0")/../.." && pwd)/.cache/hosts/containers.conf"
if [ -f "$conf" ]; then
    export CONTAINERS_CONF="$conf"
fi
exec podman "$@"
