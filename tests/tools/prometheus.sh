#!/bin/sh
# Put promtool and Prometheus' node_exporter into .cache/prometheus/bin: those that are installed, else those of Debian's
# packages, which are unpacked and not installed, as they would start services.
set -eu
cd "$(dirname "$0")/../.."
cache=$PWD/.cache/prometheus
rm -rf "$cache"
mkdir -p "$cache/bin" "$cache/packages"

missing=
for package in prometheus prometheus-node-exporter; do
    case $package in
        prometheus) name=promtool other=promtool ;;
        *) name=prometheus-node-exporter other=node_exporter ;;
    esac
    if installed=$(command -v "$name" || command -v "$other"); then
        ln -s "$installed" "$cache/bin/$name"
    else
        missing="$missing $package"
    fi
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "Needed and not installed: promtool, node_exporter, of the distribution's packages for Prometheus." >&2
    exit 1
fi
cd "$cache/packages"
# shellcheck disable=SC2086  # a list of names
if ! apt-get download -qq $missing 2>"$cache/apt.log"; then
    # The indexes are missing or old.
    sh ../../../tests/tools/apt-install.sh
    # shellcheck disable=SC2086
    apt-get download -qq $missing
fi
for package in *.deb; do
    dpkg-deb --extract "$package" "$cache/unpacked"
done
for name in promtool prometheus-node-exporter; do
    [ -e "$cache/bin/$name" ] || ln -s "$cache/unpacked/usr/bin/$name" "$cache/bin/$name"
done
rm -rf "$cache/packages"
