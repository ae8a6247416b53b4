#!/bin/sh
# Make the image of a test host, localhost/gpufleet-SUITE: a Debian with systemd and an SSH server.
# Usage: image.sh SUITE. What debootstrap makes is kept in .cache/hosts.
set -eu
cd "$(dirname "$0")/../.."
suite=$1
cache=$PWD/.cache/hosts
archive=$cache/$suite.tar
podman="sh tests/hosts/podman.sh"

if [ ! -f "$archive" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    include=python3,python3-apt,systemd-sysv,dbus,openssh-server,sudo,ca-certificates,iproute2,procps,unattended-upgrades
    # A mirror of one's own can be named.
    debootstrap --variant=minbase --include="$include" "$suite" "$work/root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} \
        >"$cache/$suite.log" 2>&1 || { tail -n 20 "$cache/$suite.log" >&2; exit 1; }
    root=$work/root
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
    tar -C "$root" -cf "$archive.new" .
    mv "$archive.new" "$archive"
fi

if ! $podman image exists "localhost/gpufleet-$suite"; then
    $podman import --quiet "$archive" "localhost/gpufleet-$suite" >/dev/null
fi
