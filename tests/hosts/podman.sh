#!/bin/sh
# podman as root, with the configuration that setup.sh found to be needed on this machine, if any.
set -eu
conf="$(cd "$(dirname "$0")/../.." && pwd)/.cache/hosts/containers.conf"
if [ -f "$conf" ]; then
    set -- env "CONTAINERS_CONF=$conf" podman "$@"
else
    set -- podman "$@"
fi
if [ "$(id -u)" -ne 0 ]; then
    set -- sudo -n "$@"
fi
exec "$@"
