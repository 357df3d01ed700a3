"""Stands for gcloud, sbatch, kubectl, ...: records its arguments, and plays what it is told.

`$FAKE` is a directory: calls.jsonl grows by a line per call, state.json says how things stand. The
workers of a TPU are the directories `worker0`, ... there: what is sent to them by ssh runs here.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

FAKE = pathlib.Path(os.environ["FAKE"])
PROGRAM, ARGUMENTS = pathlib.Path(sys.argv[0]).name, sys.argv[1:]


def load():
    return json.loads((FAKE / "state.json").read_text())


def save(state):
    (FAKE / "state.json").write_text(json.dumps(state))


def option(name):
    found = [a for a in ARGUMENTS if a.startswith(f"--{name}=")]
    return found[0].partition("=")[2] if found else None


def workers(state):
    return [FAKE / f"worker{number}" for number in range(state["workers"])]


def take_away(state):
    """Kills what runs on the workers, and wipes them."""
    for home in workers(state):
        for pid in home.glob(".vla_jax/*/supervisor"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid.read_text()), signal.SIGKILL)  # the supervisor and its command
        shutil.rmtree(home, ignore_errors=True)


def resources(state):
    verb = ARGUMENTS[3]
    if verb == "describe":
        if state["resource"] == "ABSENT":
            sys.exit("ERROR: (gcloud) NOT_FOUND: Resource not found")
        sys.stdout.write(state["resource"] + "\n")
    elif verb == "create":
        if state["resource"] != "ABSENT":
            sys.exit("ERROR: ALREADY_EXISTS")
        state.update(resource="ACTIVE", node="READY")
        for home in workers(state):
            home.mkdir()
            shutil.copytree(FAKE / "home", home, dirs_exist_ok=True)
    elif verb == "delete":
        take_away(state)
        state.update(resource="ABSENT", node="ABSENT")


def node(state):
    verb = ARGUMENTS[3]
    if verb == "describe":
        if state["node"] == "ABSENT":
            sys.exit("ERROR: (gcloud) NOT_FOUND: node not found")
        state["looks"] += 1
        if state["looks"] == state["preempted_at"]:
            take_away(state)
            state["node"] = "PREEMPTED"
        sys.stdout.write(state["node"] + "\n")
        return 0
    if state["lost"]:
        state["lost"] -= 1
        sys.stderr.write("ssh: connection refused\n")
        return 255
    chosen = workers(state)
    if option("worker") != "all":
        chosen = [chosen[int(option("worker"))]]
    if verb == "scp":
        for home in chosen:
            shutil.copy(ARGUMENTS[4], home / ARGUMENTS[5].partition(":")[2])
        return 0
    save(state)
    codes = []
    for number, home in enumerate(chosen):
        environment = os.environ | {"HOME": str(home), "WORKER_NUMBER": str(number)}
        command = ["bash", "-c", option("command")]
        codes.append(subprocess.run(command, cwd=home, env=environment, check=False).returncode)
    return max(codes)


def main():
    record = {"program": PROGRAM, "arguments": ARGUMENTS}
    if PROGRAM == "kubectl" and "apply" in ARGUMENTS:
        record["input"] = sys.stdin.read()
    with (FAKE / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(record) + "\n")
    state, code = load(), 0
    if PROGRAM == "gcloud":
        code = resources(state) if ARGUMENTS[2] == "queued-resources" else node(state)
        save(state)
    elif PROGRAM == "sbatch":
        sys.stdout.write("4711\n")
        code = state["sbatch"]
    elif PROGRAM in ("squeue", "nvidia-smi"):
        sys.stdout.write(state[PROGRAM])
    elif PROGRAM == "kubectl" and "get" in ARGUMENTS:
        sys.stdout.write(state["jobsets"])
    elif PROGRAM == "srun":
        words = [a for a in ARGUMENTS if not a.startswith("--k") and not a.startswith("--wait")]
        code = subprocess.run(words, check=False).returncode
    sys.exit(code or 0)


main()
