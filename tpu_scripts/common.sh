# shellcheck shell=bash
# What the scripts of this folder share, read by `source`. Every setting is an environment variable;
# its default is here. An empty value leaves the choice to gcloud.
set -euo pipefail

export NAME="${NAME:-vla-jax}"                   # of the queued resource, its node and the job
PROJECT="${PROJECT:-}"                           # Google Cloud project
ZONE="${ZONE:-}"                                 # such as us-west4-a
TPU_TYPE="${TPU_TYPE:-v5litepod-16}"             # accelerator type
TPU_VERSION="${TPU_VERSION:-v2-alpha-tpuv5-lite}" # software of the TPU VMs
CAPACITY="${CAPACITY:-spot}"                     # spot, on-demand or reserved
VALID_UNTIL="${VALID_UNTIL:-}"                   # give up waiting after, such as 6h
NETWORK="${NETWORK:-}"                           # network of the VMs
SUBNETWORK="${SUBNETWORK:-}"                     # subnetwork of the VMs
INTERNAL_IPS="${INTERNAL_IPS:-0}"                # 1: no public addresses; ssh goes inside, too
SERVICE_ACCOUNT="${SERVICE_ACCOUNT:-}"           # whose rights the VMs have on storage
REMOTE_DIR="${REMOTE_DIR:-vla_jax}"              # the checkout on a worker, below its home
PYTHON_VERSION="${PYTHON_VERSION:-3.12}"         # on the workers
EXTRAS="${EXTRAS:-tpu,gcs}"                      # of the package, see setup.py
CHECK="${CHECK-vla-jax dist-check}"              # run before a job; empty for none
WORKER="${WORKER:-0}"                            # whose log is followed
POLL_SECONDS="${POLL_SECONDS:-30}"               # between two looks
WAIT_POLLS="${WAIT_POLLS:-2880}"                 # looks until a TPU has to be there (a day)
SSH_TRIES="${SSH_TRIES:-3}"                      # of a connection, before it counts as lost
MAX_RESTARTS="${MAX_RESTARTS:-100}"              # new TPUs in one watch

DRY_RUN="${DRY_RUN:-0}"                          # 1 or --dry-run: print commands, run none
exec 3>&1                                        # where they are printed

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

note() {
  printf '%s\n' "$*" >&3
}

# Prints the comment at the head of a script.
usage() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
}

# Takes --dry-run and --help from the front of the arguments; the rest is in ARGUMENTS.
# shellcheck disable=SC2034  # the scripts read it
parse() {
  while (($#)); do
    case "$1" in
      --dry-run) DRY_RUN=1 ;;
      -h | --help)
        usage
        exit 0
        ;;
      --)
        shift
        break
        ;;
      -*) fail "unknown option $1; see --help" ;;
      *) break ;;
    esac
    shift
  done
  export DRY_RUN
  ARGUMENTS=("$@")
}

# Joins words to one line that a shell reads back as these words.
quoted() {
  local line
  printf -v line '%q ' "$@"
  printf '%s' "${line% }"
}

# Runs a command, or prints it.
run() {
  if [[ "$DRY_RUN" == 1 ]]; then
    note "$(quoted "$@")"
  else
    "$@"
  fi
}

# Sets TPU_FLAGS: where the TPU is.
place() {
  [[ -n "$ZONE" ]] || fail 'ZONE: expected a zone such as us-west4-a, found nothing'
  TPU_FLAGS=(--zone="$ZONE")
  [[ -z "$PROJECT" ]] || TPU_FLAGS+=(--project="$PROJECT")
}

# Prints the state of the queued resource (ACTIVE, ...) or node (READY, PREEMPTED, ...);
# ABSENT if there is none, UNKNOWN if it cannot be told. $2 is what a dry run assumes.
state_of() {
  local kind="$1" assumed="$2" format='value(state)' said
  [[ "$kind" == tpu-vm ]] || format='value(state.state)'
  local command=(gcloud compute tpus "$kind" describe "$NAME" "${TPU_FLAGS[@]}" --format="$format")
  if [[ "$DRY_RUN" == 1 ]]; then
    run "${command[@]}"
    printf '%s' "$assumed"
  elif said="$("${command[@]}" 2>&1)"; then
    printf '%s' "${said##*$'\n'}"
  elif [[ "$said" == *NOT_FOUND* || "$said" == *'not found'* ]]; then
    printf ABSENT
  else
    note "cannot tell the state of $NAME: $said"
    printf UNKNOWN
  fi
}

# Runs a line of shell in the checkout on worker $1 (a number or all), trying again when the
# connection fails (255); passes on other exit codes.
on_worker() {
  local worker="$1" line="$2" try code=0
  local command=(gcloud compute tpus tpu-vm ssh "$NAME" "${TPU_FLAGS[@]}" --worker="$worker")
  [[ "$INTERNAL_IPS" != 1 ]] || command+=(--internal-ip)
  line="cd $(quoted "$REMOTE_DIR") && . venv/bin/activate && export NAME=$(quoted "$NAME") && $line"
  for ((try = 1; try <= SSH_TRIES; try++)); do
    code=0
    run "${command[@]}" --command="$line" || code=$?
    ((code == 255)) || return "$code"
    note "worker $worker: no connection, try $try of $SSH_TRIES"
    sleep "$POLL_SECONDS"
  done
  return "$code"
}

# Prints the job's state on each worker, a line each: running, exit CODE or absent.
job_states() {
  on_worker all 'bash tpu_scripts/worker.sh status'
}
