#!/usr/bin/env bash
# Follows the log of one worker until Ctrl-C, which leaves the job alone.
#
# usage: ZONE=... [NAME=...] [WORKER=0] tpu_scripts/logs.sh [--dry-run]
#
# Settings: tpu_scripts/common.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
place
on_worker "$WORKER" 'bash tpu_scripts/worker.sh logs'
