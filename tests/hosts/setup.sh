#!/bin/sh
# Install what the test hosts need, and find out how containers run on this machine.
set -eu
cd "$(dirname "$0")/../.."
cache=.cache/hosts
mkdir -p "$cache"

as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root="sudo -n"
    $as_root true 2>/dev/null || { echo "The test hosts need root, or sudo without a password." >&2; exit 1; }
fi

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

for suite in "$@"; do
    $as_root sh tests/hosts/image.sh "$suite"
done

# Some machines have no right to raise limits, and control groups that crun does not know; elsewhere nothing is imposed.
rm -f "$cache/containers.conf"
if ! sh tests/hosts/podman.sh run --rm --network none "localhost/gpufleet-$1" true 2>"$cache/podman.log"; then
    cat >"$cache/containers.conf" <<'CONF'
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=4096:4096"]
[engine]
runtime = "runc"
CONF
    sh tests/hosts/podman.sh run --rm --network none "localhost/gpufleet-$1" true
fi
