#!/usr/bin/env bash
# Asks the job on every worker to save and end; launch.sh with the same command goes on.
#
# usage: ZONE=... [NAME=...] tpu_scripts/stop.sh [--dry-run]
#
# Settings: tpu_scripts/common.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
place
on_worker all 'bash tpu_scripts/worker.sh stop'
