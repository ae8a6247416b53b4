#!/bin/sh
# Give this machine a hardware address of its own in the network of the test hosts, once there is a host.
# It would have one of the hosts' otherwise; when that host goes, the others would send to nobody for half a minute.
set -eu
cd "$(dirname "$0")/../.."

as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root="sudo -n"
fi
bridge=$(sh tests/hosts/podman.sh network inspect --format '{{.NetworkInterface}}' gpufleet-hosts)
PATH="$PATH:/usr/sbin:/sbin" $as_root ip link set dev "$bridge" address 02:00:0a:4d:1f:01
