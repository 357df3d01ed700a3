#!/usr/bin/env bash
# Gives the TPU back, whatever runs on it; fine if there is none.
#
# usage: ZONE=... [NAME=...] tpu_scripts/delete.sh [--dry-run]
#
# Settings: tpu_scripts/common.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
place
if [[ "$(state_of queued-resources ACTIVE)" == ABSENT ]]; then
  note "$NAME is not there"
else
  run gcloud compute tpus queued-resources delete "$NAME" "${TPU_FLAGS[@]}" --force --quiet
  note "$NAME is deleted"
fi
