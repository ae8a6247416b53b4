#!/bin/sh
# Make the image of a test host, localhost/gpufleet-SUITE: a Debian with systemd and an SSH server.
# Usage: image.sh SUITE. An image that is there is taken if it was made by this file and with these units.
set -eu
cd "$(dirname "$0")/../.."
suite=$1
image=localhost/gpufleet-$suite
log=.cache/hosts/$suite.log
podman="sh tests/hosts/podman.sh"

made_of=$(cat tests/hosts/image.sh tests/hosts/units/* | sha256sum | cut -c 1-16)
if [ "$($podman image inspect --format '{{index .Labels "made-of"}}' "$image" 2>/dev/null)" = "$made_of" ]; then
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
include=python3,python3-apt,systemd-sysv,dbus,openssh-server,sudo,ca-certificates,iproute2,procps,unattended-upgrades
# A mirror of one's own can be named.
debootstrap --variant=minbase --include="$include" "$suite" "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$log" 2>&1 ||
    { tail -n 20 "$log" >&2; exit 1; }
# Nobody is there to ask for a password, and nothing may install anything behind a test's back.
for unit in systemd-ask-password-console.path systemd-ask-password-wall.path apt-daily.timer apt-daily-upgrade.timer \
    unattended-upgrades.service systemd-resolved.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# Packages come from the tests' own repository alone, so that a test needs no network.
rm -rf "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* "$root"/var/lib/apt/lists/* \
    "$root"/var/cache/apt/archives/*.deb "$root"/etc/ssh/ssh_host_*
: >"$root/etc/machine-id"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
cp tests/hosts/units/* "$root/etc/systemd/system/"
for unit in gpu-boot.service ssh-host-keys.service; do
    ln -sf "/etc/systemd/system/$unit" "$root/etc/systemd/system/multi-user.target.wants/$unit"
done
tar -C "$root" -cf "$work/root.tar" .
$podman import --quiet --change "LABEL made-of=$made_of" "$work/root.tar" "$image" >/dev/null
