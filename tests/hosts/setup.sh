#!/bin/sh
# Install what the test hosts need, make their images and their network, and find out how containers run on this machine.
# Usage: setup.sh SUITE…
set -eu
cd "$(dirname "$0")/../.."
cache=.cache/hosts
mkdir -p "$cache"
podman="sh tests/hosts/podman.sh"

as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root="sudo -n"
    $as_root true 2>/dev/null || { echo "The test hosts need root, or sudo without a password." >&2; exit 1; }
fi

# Scenarios may begin at the same time.
exec 9>"$cache/setup.lock"
flock 9

missing=
for pair in podman:podman runc:runc netavark:netavark aardvark-dns:aardvark-dns iptables:iptables \
    debootstrap:debootstrap ip:iproute2 apt-ftparchive:apt-utils dpkg-deb:dpkg gpg:gnupg gcc:gcc ssh:openssh-client; do
    PATH="$PATH:/usr/sbin:/sbin:/usr/lib/podman" command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
dpkg -s libc6-dev >/dev/null 2>&1 || missing="$missing libc6-dev"
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086  # a list of names
    sh tests/tools/apt-install.sh $missing
fi

makers=
for suite in "$@"; do
    $as_root sh tests/hosts/image.sh "$suite" 9>&- &
    makers="$makers $!"
done
for maker in $makers; do
    wait "$maker"
done

# Some machines have no right to raise limits, and control groups that crun does not know; elsewhere nothing is imposed.
if ! $podman run --rm --network none "localhost/gpufleet-$1" true 2>"$cache/podman.log"; then
    cat >"$cache/containers.conf" <<'CONF'
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=4096:4096"]
[engine]
runtime = "runc"
CONF
    $podman run --rm --network none "localhost/gpufleet-$1" true
fi

# All scenarios share it, so it stays until `make clean`. This machine has its first address there.
$podman network exists gpufleet-hosts || $podman network create --subnet 10.77.31.0/24 gpufleet-hosts >/dev/null
