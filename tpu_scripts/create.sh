#!/usr/bin/env bash
# Asks for a TPU and waits until it is ready; fine if it is already there.
#
# usage: ZONE=us-west4-a [NAME=...] [TPU_TYPE=v5litepod-16] [CAPACITY=spot|on-demand|reserved] \
#          tpu_scripts/create.sh [--dry-run]
#
# Settings: tpu_scripts/common.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
place

create() {
  local command=(gcloud compute tpus queued-resources create "$NAME" "${TPU_FLAGS[@]}"
    --node-id="$NAME" --accelerator-type="$TPU_TYPE" --runtime-version="$TPU_VERSION")
  case "$CAPACITY" in
    spot) command+=(--spot) ;;
    reserved) command+=(--reserved) ;;
    on-demand) ;;
    *) fail "CAPACITY: expected spot, on-demand or reserved, found $CAPACITY" ;;
  esac
  [[ -z "$VALID_UNTIL" ]] || command+=(--valid-until-duration="$VALID_UNTIL")
  [[ -z "$NETWORK" ]] || command+=(--network="$NETWORK")
  [[ -z "$SUBNETWORK" ]] || command+=(--subnetwork="$SUBNETWORK")
  [[ "$INTERNAL_IPS" != 1 ]] || command+=(--internal-ips)
  [[ -z "$SERVICE_ACCOUNT" ]] || command+=(--service-account="$SERVICE_ACCOUNT")
  run "${command[@]}"
}

case "$(state_of queued-resources ABSENT)" in
  ABSENT) create ;;
  FAILED | SUSPENDED | SUSPENDING)
    fail "$NAME has failed or was taken away; run tpu_scripts/delete.sh first"
    ;;
  *) note "$NAME is already asked for" ;;
esac

for ((poll = 1; poll <= WAIT_POLLS; poll++)); do
  resource="$(state_of queued-resources ACTIVE)"
  case "$resource" in
    ACTIVE)
      node="$(state_of tpu-vm READY)"
      case "$node" in
        READY)
          note "$NAME is ready"
          exit 0
          ;;
        PREEMPTED | TERMINATED) fail "$NAME was taken away; run tpu_scripts/delete.sh first" ;;
      esac
      ;;
    FAILED | SUSPENDED | SUSPENDING) fail "$NAME: $resource" ;;
  esac
  note "$NAME: $resource"
  sleep "$POLL_SECONDS"
done
fail "$NAME is not there after $WAIT_POLLS looks; it stays asked for"
