#!/usr/bin/env bash
# Sees a job through: creates the TPU, sets it up and launches, and does so again whenever the TPU
# is taken away, until the command is done. Can be stopped and started at any time.
#
# usage: ZONE=... [NAME=...] tpu_scripts/watch.sh [--dry-run] COMMAND...
#
# Exit code: 0 done, 75 the job was asked to stop, 1 it failed. The TPU stays: tpu_scripts/delete.sh.
# Settings: tpu_scripts/common.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
place
((${#ARGUMENTS[@]})) || fail 'expected a command; see --help'
here="$(dirname "${BASH_SOURCE[0]}")"

# Each step is safe to repeat; one that fails, for instance because the TPU is taken away
# meanwhile, is repeated at the next look.
begin() {
  if ! { bash "$here/create.sh" && bash "$here/setup.sh" &&
    bash "$here/launch.sh" -- "${ARGUMENTS[@]}"; }; then
    note 'could not start; looking again'
  fi
}

restarts=0
renew() {
  ((restarts++ < MAX_RESTARTS)) || fail "$NAME was taken away $MAX_RESTARTS times"
  note "$NAME: $1; a new one (restart $restarts)"
  bash "$here/delete.sh" || note 'could not delete; looking again'
  begin
}

# Acts on the job's states of all workers.
judge() {
  local states="$1"
  case "$states" in
    *absent*) begin ;;
    *running*) ;;
    *'exit 75'*)
      note "$NAME was asked to stop"
      exit 75
      ;;
    *'exit '[1-9]*) fail "the job failed: $states. See tpu_scripts/logs.sh" ;;
    *'exit 0'*)
      note "$NAME: done"
      exit 0
      ;;
  esac
}

if [[ "$DRY_RUN" == 1 ]]; then
  begin
  exit 0
fi

silent=0
while true; do
  node="$(state_of tpu-vm READY)"
  case "$node" in
    READY)
      if states="$(job_states)"; then
        silent=0
        judge "$states"
      elif ((++silent >= SSH_TRIES)); then
        silent=0
        renew 'its workers do not answer'
      fi
      ;;
    ABSENT)
      # Not asked for yet, still waiting for its turn, or gone.
      case "$(state_of queued-resources ABSENT)" in
        FAILED | SUSPENDED | SUSPENDING) renew 'gone' ;;
        *) begin ;;
      esac
      ;;
    PREEMPTED | TERMINATED | STOPPED) renew "$node" ;;
    *) note "$NAME: $node" ;;
  esac
  sleep "$POLL_SECONDS"
done
