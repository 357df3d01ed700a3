#!/usr/bin/env bash
# Keeps one command alive on this machine: one at a time, past the end of the ssh session, and
# again where it exits with 75 (everything is saved). launch.sh calls it on the workers of a TPU,
# gpu.sh on a machine with GPUs.
#
# usage: [NAME=...] worker.sh start COMMAND... | status | logs | stop
#
# status prints one word or two: running, exit CODE, or absent.
set -euo pipefail

NAME="${NAME:-vla-jax}"                         # of the job
STATE_DIR="${STATE_DIR:-$HOME/.vla_jax/$NAME}"  # its log, lock and exit code
RESTART_SECONDS="${RESTART_SECONDS:-10}"        # before it is run again
MAX_RESTARTS="${MAX_RESTARTS:-1000}"            # of one start

mkdir -p "$STATE_DIR"

running() {
  ! flock --nonblock "$STATE_DIR/lock" true
}

start() {
  (($#)) || { printf 'worker.sh start: expected a command\n' >&2 && exit 1; }
  if running; then
    printf 'already running\n'
    return
  fi
  rm -f "$STATE_DIR/exit" "$STATE_DIR/stop"
  # Nothing of the caller's stays open, or an ssh session would wait for the job.
  nohup setsid bash "$0" supervise "$@" >>"$STATE_DIR/log" 2>&1 3>&- </dev/null &
  printf 'started\n'
}

# The lock is inherited by the command: while that lives, nobody starts it a second time.
supervise() {
  local restarts=0 code
  exec 9>"$STATE_DIR/lock"
  flock --nonblock 9 || exit 0
  printf '%s\n' "$$" >"$STATE_DIR/supervisor"
  trap 'touch "$STATE_DIR/stop"; [[ -z "${child:-}" ]] || kill -TERM "$child" 2>/dev/null' TERM
  while true; do
    "$@" &
    child=$!
    code=0
    wait "$child" || code=$?
    # A signal to this shell ends the wait, not the command.
    while kill -0 "$child" 2>/dev/null; do
      code=0
      wait "$child" || code=$?
    done
    ((code == 75 && restarts++ < MAX_RESTARTS)) || break
    [[ ! -e "$STATE_DIR/stop" ]] || break
    printf 'worker.sh: exit code 75, run again in %s s\n' "$RESTART_SECONDS"
    sleep "$RESTART_SECONDS"
  done
  printf '%s\n' "$code" >"$STATE_DIR/exit"
}

status() {
  if running; then
    printf 'running\n'
  elif [[ -e "$STATE_DIR/exit" ]]; then
    printf 'exit %s\n' "$(<"$STATE_DIR/exit")"
  else
    printf 'absent\n'
  fi
}

case "${1:-}" in
  start | supervise) "$1" "${@:2}" ;;
  status) status ;;
  logs) exec tail -n 100 -F "$STATE_DIR/log" ;;
  stop)
    if running; then
      kill -TERM "$(<"$STATE_DIR/supervisor")"
    fi
    ;;
  -h | --help) sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0" ;;
  *)
    printf 'worker.sh: expected start, status, logs or stop; see --help\n' >&2
    exit 1
    ;;
esac
