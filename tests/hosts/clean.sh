#!/bin/sh
# Remove the containers, the network and the images of the test hosts.
set -eu
cd "$(dirname "$0")/../.."
podman="sh tests/hosts/podman.sh"

for container in $($podman ps --all --quiet --filter name=^gpufleet-); do
    $podman rm --force --time 0 "$container" >/dev/null
done
for image in $($podman images --quiet --filter 'reference=localhost/gpufleet-*'); do
    $podman rmi --force "$image" >/dev/null
done
$podman network rm --force gpufleet-hosts >/dev/null 2>&1 || true
