#!/usr/bin/env bash
# Runs a command as a JobSet on Kubernetes: GKE TPU slices or GPU nodes.
#
# usage: IMAGE=... tpu_scripts/kubernetes/jobset.sh [--dry-run] submit NAME COMMAND...
#        jobset.sh [--dry-run] status NAME | logs NAME | delete NAME | queued
#        jobset.sh submit bridge vla-jax train --config=configs/x.py --workdir=/data/run
#
# submit is fine if NAME is already running; one that has ended is replaced. --dry-run prints the
# manifest and the commands. queued lists what waits or runs, for sweeps.
set -euo pipefail

IMAGE="${IMAGE:-}"                                      # container image with vla_jax installed
NAMESPACE="${NAMESPACE:-default}"
WORKING_DIR="${WORKING_DIR:-/workspace}"                # the checkout inside the image
TPU_ACCELERATOR="${TPU_ACCELERATOR-tpu-v5-lite-podslice}" # GKE's name; empty for GPUs
TPU_TOPOLOGY="${TPU_TOPOLOGY:-4x4}"                     # of a slice
SLICES="${SLICES:-1}"                                   # slices; 1 for GPUs
HOSTS="${HOSTS:-4}"                                     # per slice, or GPU nodes
CHIPS="${CHIPS:-4}"                                     # TPU chips or GPUs per host
SPOT="${SPOT:-1}"                                       # 1: spot nodes
CLAIM="${CLAIM:-}"                                      # volume claim that all pods and you share
MOUNT="${MOUNT:-/data}"                                 # where it is mounted
QUEUE="${QUEUE:-}"                                      # Kueue's local queue
SAVE_SECONDS="${SAVE_SECONDS:-120}"                     # between SIGTERM and the end
CHECK="${CHECK-vla-jax dist-check}"                      # run before the command; empty for none
DRY_RUN="${DRY_RUN:-0}"

template="$(dirname "${BASH_SOURCE[0]}")/jobset.yaml"
kube=(kubectl --namespace="$NAMESPACE")
owner='app.kubernetes.io/managed-by=vla-jax'

fail() {
  printf 'jobset.sh: %s\n' "$*" >&2
  exit 1
}

run() {
  if [[ "$DRY_RUN" == 1 ]]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# Writes a word as a JSON string.
json() {
  local word="$1"
  word="${word//\\/\\\\}"
  word="${word//\"/\\\"}"
  word="${word//$'\n'/\\n}"
  word="${word//$'\t'/\\t}"
  printf '"%s"' "$word"
}

# Writes pairs of words as a JSON object.
object() {
  local separator=''
  printf '{'
  while (($#)); do
    printf '%s%s: %s' "$separator" "$(json "$1")" "$(json "$2")"
    separator=', '
    shift 2
  done
  printf '}'
}

# Writes words as a JSON array.
array() {
  local separator='' word
  printf '['
  for word in "$@"; do
    printf '%s%s' "$separator" "$(json "$word")"
    separator=', '
  done
  printf ']'
}

# Replaces the words between @ in the manifest.
manifest() {
  local name="$1" text labels annotations=() selector=() env='[]' kind mounts='[]' volumes='[]'
  local tolerations='[]'
  shift
  # shellcheck disable=SC2016  # the shell in the container reads it
  [[ -z "$CHECK" ]] || set -- bash -c "$CHECK"' && exec "$@"' job "$@"
  labels=("${owner%%=*}" "${owner#*=}")
  [[ -z "$QUEUE" ]] || labels+=(kueue.x-k8s.io/queue-name "$QUEUE")
  [[ "$SPOT" != 1 ]] || selector+=(cloud.google.com/gke-spot true)
  if [[ -n "$TPU_ACCELERATOR" ]]; then
    kind=google.com/tpu
    annotations+=(alpha.jobset.sigs.k8s.io/exclusive-topology cloud.google.com/gke-nodepool)
    selector+=(cloud.google.com/gke-tpu-accelerator "$TPU_ACCELERATOR"
      cloud.google.com/gke-tpu-topology "$TPU_TOPOLOGY")
  else
    kind=nvidia.com/gpu
    tolerations='[{"key": "nvidia.com/gpu", "operator": "Exists"}]'
    # Without a TPU's variables the processes are told where they meet.
    env="[$(printf '{"name": "VLA_JAX_COORDINATOR", "value": %s}, ' "$(json "$name-worker-0-0.$name:8476")")"
    env+="{\"name\": \"VLA_JAX_PROCESSES\", \"value\": \"$HOSTS\"}, "
    env+='{"name": "VLA_JAX_PROCESS", "valueFrom": {"fieldRef": {"fieldPath": '
    env+="\"metadata.annotations['batch.kubernetes.io/job-completion-index']\"}}}]"
  fi
  if [[ -n "$CLAIM" ]]; then
    mounts="[$(object name data mountPath "$MOUNT")]"
    volumes="[{\"name\": \"data\", \"persistentVolumeClaim\": $(object claimName "$CLAIM")}]"
  fi
  text="$(<"$template")"
  # The words last that come from the user, so that nothing is replaced in them.
  text="${text//@SLICES@/"$SLICES"}"
  text="${text//@HOSTS@/"$HOSTS"}"
  text="${text//@SAVE_SECONDS@/"$SAVE_SECONDS"}"
  text="${text//@RESOURCES@/"{\"limits\": $(object "$kind" "$CHIPS")}"}"
  text="${text//@TOLERATIONS@/"$tolerations"}"
  text="${text//@ANNOTATIONS@/"$(object "${annotations[@]}")"}"
  text="${text//@SELECTOR@/"$(object "${selector[@]}")"}"
  text="${text//@LABELS@/"$(object "${labels[@]}")"}"
  text="${text//@MOUNTS@/"$mounts"}"
  text="${text//@VOLUMES@/"$volumes"}"
  text="${text//@ENV@/"$env"}"
  text="${text//@IMAGE@/"$(json "$IMAGE")"}"
  text="${text//@WORKING_DIR@/"$(json "$WORKING_DIR")"}"
  text="${text//@NAME@/"$(json "$name")"}"
  printf '%s\n' "${text//@COMMAND@/"$(array "$@")"}"
}

# Prints NAME STATE of the JobSets of ours; <none> while one waits or runs.
states() {
  "${kube[@]}" get jobsets --selector="$owner" --no-headers \
    --output=custom-columns=NAME:.metadata.name,STATE:.status.terminalState
}

submit() {
  local name="$1" state
  (($# > 1)) || fail 'expected a command; see --help'
  [[ -n "$IMAGE" ]] || fail 'IMAGE: expected a container image, found nothing'
  if [[ "$DRY_RUN" == 1 ]]; then
    manifest "$@"
    run "${kube[@]}" apply --filename=-
    return
  fi
  state="$(states | awk -v name="$name" '$1 == name {print $2}')"
  case "$state" in
    '') ;;
    '<none>')
      printf '%s is already running\n' "$name"
      return
      ;;
    *) "${kube[@]}" delete jobset "$name" --ignore-not-found --wait ;;
  esac
  manifest "$@" | "${kube[@]}" apply --filename=-
}

[[ "${1:-}" != --dry-run ]] || { DRY_RUN=1 && shift; }
verb="${1:-}"
case "$verb" in
  submit | status | logs | delete)
    (($# > 1)) || fail "$verb: expected a name"
    ;;
esac
case "$verb" in
  submit) submit "${@:2}" ;;
  queued) states | awk '$2 == "<none>" {print $1}' ;;
  status) run "${kube[@]}" get jobset "$2" ;;
  logs)
    run "${kube[@]}" logs --follow --max-log-requests=1 \
      --selector="jobset.sigs.k8s.io/jobset-name=$2,batch.kubernetes.io/job-completion-index=0"
    ;;
  delete) run "${kube[@]}" delete jobset "$2" --ignore-not-found ;;
  -h | --help) sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0" ;;
  *) fail 'expected submit, status, logs, delete or queued; see --help' ;;
esac
