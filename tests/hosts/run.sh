#!/bin/sh
# Run Molecule scenarios, each in its own time: `run.sh "SCENARIO SCENARIO" SCENARIO` runs two lines of them side by side.
# Hosts wait for each other's networks, disks and reboots most of the time; two lines keep two cores busy.
set -eu
cd "$(dirname "$0")/../.."
mkdir -p .cache/hosts

# Hosts take memory, so two runs follow each other. What they start must not keep the lock.
exec 9>.cache/hosts/run.lock
flock 9

lines=
for scenarios in "$@"; do
    log=.cache/hosts/$(echo "$scenarios" | tr ' ' '-').log
    options=
    for scenario in $scenarios; do
        options="$options --scenario-name $scenario"
    done
    # In a session of its own, so that all of it can be ended.
    # shellcheck disable=SC2086  # a list of options
    NO_COLOR=1 setsid molecule test --no-command-borders $options >"$log" 2>&1 9>&- &
    lines="$lines $!:$log"
done
trap 'for line in $lines; do kill -- "-${line%%:*}" 2>/dev/null; done; exit 130' INT TERM

failed=
for line in $lines; do
    if ! wait "${line%%:*}"; then
        failed="$failed ${line#*:}"
    fi
    cat "${line#*:}"
done
if [ -n "$failed" ]; then
    echo "failed, see above, or$failed" >&2
    exit 1
fi
