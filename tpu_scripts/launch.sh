#!/usr/bin/env bash
# Starts a command on all workers, in the background; fine if it is already running.
#
# usage: ZONE=... [NAME=...] tpu_scripts/launch.sh [--dry-run] COMMAND...
#        tpu_scripts/launch.sh vla-jax train --config=configs/x.py --workdir=/mnt/share/run
#
# The command ends when all is done or wrong, and is run again where it exits with 75 (saved).
# Before it, CHECK looks at devices and network. Settings: tpu_scripts/common.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
place
((${#ARGUMENTS[@]})) || fail 'expected a command; see --help'

states="$(job_states)" || fail "no word from the workers of $NAME"
if [[ "$states" == *running* ]]; then
  note "$NAME is already running; starting it where it is not"
elif [[ -n "$CHECK" ]]; then
  on_worker all "$CHECK" || fail "$CHECK failed; nothing was started"
fi
on_worker all "bash tpu_scripts/worker.sh start $(quoted "${ARGUMENTS[@]}")"
