#!/usr/bin/env bash
# Runs a command on this machine's GPUs, in the background; one process drives all of them.
#
# usage: tpu_scripts/gpu.sh [--dry-run] start COMMAND... | status | logs | stop
#        tpu_scripts/gpu.sh start vla-jax train --config=configs/x.py --workdir=runs/x
#
# It outlives the terminal, is started once however often this is called, and run again where it
# exits with 75 (saved). Settings: NAME, CHECK in tpu_scripts/common.sh, and below.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"

export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd, || true)}"
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}" # of each GPU's memory
worker="$(dirname "${BASH_SOURCE[0]}")/worker.sh"

if [[ "${ARGUMENTS[0]:-}" == start && -n "$CHECK" ]]; then
  [[ -n "$CUDA_VISIBLE_DEVICES" ]] || fail 'expected GPUs, nvidia-smi shows none'
  if [[ "$DRY_RUN" == 1 || "$(bash "$worker" status)" != running ]]; then
    read -ra check <<<"$CHECK"
    run "${check[@]}" || fail "$CHECK failed; nothing was started"
  fi
fi
run bash "$worker" "${ARGUMENTS[@]}"
