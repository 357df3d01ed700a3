#!/usr/bin/env bash
# Queues a command under Slurm; fine if a job of this name is already queued.
#
# usage: [NODES=1] [GPUS=8] ... tpu_scripts/slurm/submit.sh [--dry-run] [--job NAME] COMMAND...
#        tpu_scripts/slurm/submit.sh vla-jax train --config=configs/x.py --workdir=/shared/run
#        submit.sh [--dry-run] --job NAME --array 0-5%2 --tasks FILE    # line i: NAME<tab>COMMAND
#        submit.sh --queued PREFIX      # prints JOB|TASK of what waits or runs, for sweeps
#
# One process per node drives its GPUs; JAX finds the others by Slurm's variables. Preempted, out of
# time or on SIGTERM, the job saves and is queued again (see job.sh). Slurm's own SBATCH_* variables
# work as well.
set -euo pipefail

JOB="${JOB:-vla-jax}"                 # name of the job
NODES="${NODES:-1}"                   # nodes
GPUS="${GPUS:-8}"                     # GPUs per node; 0 for a job on CPUs
CPUS="${CPUS:-}"                      # CPU cores per node
TIME="${TIME:-24:00:00}"              # limit; a job that reaches it is queued again
SAVE_SECONDS="${SAVE_SECONDS:-300}"   # between SIGTERM and the limit
PARTITION="${PARTITION:-}"
ACCOUNT="${ACCOUNT:-}"
QOS="${QOS:-}"
LOG_DIR="${LOG_DIR:-slurm_logs}"      # of what the job prints
DRY_RUN="${DRY_RUN:-0}"               # 1 or --dry-run: print the commands

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
array='' tasks=''

fail() {
  printf 'submit.sh: %s\n' "$*" >&2
  exit 1
}

# Prints JOB|TASK of this user's jobs whose name begins with $1.
queued() {
  squeue --me --noheader --array --format='%j|%K' | awk -v prefix="$1" 'index($0, prefix) == 1'
}

while (($#)); do
  case "$1" in
    --dry-run) DRY_RUN=1 ;;
    --job | --array | --tasks | --queued)
      (($# > 1)) || fail "$1: expected a value"
      case "$1" in
        --job) JOB="$2" ;;
        --array) array="$2" ;;
        --tasks) tasks="$2" ;;
        --queued)
          queued "$2"
          exit 0
          ;;
      esac
      shift
      ;;
    -h | --help)
      sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
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
[[ -n "$tasks" ]] || (($#)) || fail 'expected a command; see --help'

command=(sbatch --parsable --job-name="$JOB" --nodes="$NODES" --ntasks-per-node=1 --time="$TIME"
  --requeue --open-mode=append --signal="TERM@$SAVE_SECONDS")
if [[ -n "$array" ]]; then
  command+=(--array="$array" --output="$LOG_DIR/%x-%A_%a.log")
else
  command+=(--output="$LOG_DIR/%x-%j.log")
fi
((GPUS == 0)) || command+=(--gpus-per-node="$GPUS")
[[ -z "$CPUS" ]] || command+=(--cpus-per-task="$CPUS")
[[ -z "$PARTITION" ]] || command+=(--partition="$PARTITION")
[[ -z "$ACCOUNT" ]] || command+=(--account="$ACCOUNT")
[[ -z "$QOS" ]] || command+=(--qos="$QOS")
command+=("$here/job.sh")
if [[ -n "$tasks" ]]; then
  command+=(--tasks "$tasks")
else
  command+=("$@")
fi

if [[ "$DRY_RUN" == 1 ]]; then
  printf '%q ' "${command[@]}"
  printf '\n'
elif queued "$JOB|" | grep -q .; then
  printf '%s is already queued\n' "$JOB"
else
  mkdir -p "$LOG_DIR" # Slurm drops the output of a job whose folder is not there
  "${command[@]}"
fi
