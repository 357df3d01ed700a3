#!/usr/bin/env bash
# What runs on the first node of a Slurm job: the command, on every node; submit.sh queues this.
#
# usage: job.sh COMMAND...
#        job.sh --tasks FILE      # the line of this array task, NAME<tab>COMMAND
#
# A command that exits with 75 has saved everything: the job is queued again.
set -euo pipefail

CHECK="${CHECK-vla-jax dist-check}" # run before the command; empty for none
WAIT_SECONDS="${WAIT_SECONDS:-300}" # for the other processes, after the first has ended

if [[ "${1:-}" == --tasks ]]; then
  line="$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$2")"
  set -- bash -c "exec ${line#*$'\t'}"
fi

code=0
if [[ -n "$CHECK" ]]; then
  read -ra check <<<"$CHECK"
  srun "${check[@]}" || code=$?
fi
# The end of one process must not kill the others, which are still saving.
((code)) || srun --kill-on-bad-exit=0 --wait="$WAIT_SECONDS" "$@" || code=$?
if ((code == 75)); then
  printf 'job.sh: exit code 75, queued again\n'
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
