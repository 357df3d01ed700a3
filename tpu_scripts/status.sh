#!/usr/bin/env bash
# Prints the states of the queued resource, of its node, and of the job on each worker.
#
# usage: ZONE=... [NAME=...] tpu_scripts/status.sh [--dry-run]
#
# Settings: tpu_scripts/common.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
place
note "queued resource: $(state_of queued-resources ACTIVE)"
node="$(state_of tpu-vm READY)"
note "node: $node"
[[ "$node" != READY ]] || job_states
