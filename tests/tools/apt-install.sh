#!/bin/sh
# Install Debian packages where this user may, otherwise say which ones are missing and stop.
# Usage: apt-install.sh PACKAGE...
set -eu

# apt refuses to work twice at once.
exec 9<"$0"
flock 9

if [ "$(id -u)" -eq 0 ]; then
    as_root=
else
    as_root="sudo -n"
fi

if ! command -v apt-get >/dev/null || ! $as_root true 2>/dev/null; then
    echo "Needed and not installed: $*. Install with: sudo apt-get install $*" >&2
    exit 1
fi
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
