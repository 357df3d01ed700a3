"""A cloud on this machine, in a directory."""

import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import types

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "tpu_scripts"
STATE = {
    "resource": "ABSENT",
    "node": "ABSENT",
    "workers": 2,
    "looks": 0,  # at the node
    "preempted_at": -1,  # which of them finds it taken away
    "lost": 0,  # connections that fail
    "sbatch": 0,
    "squeue": "",
    "nvidia-smi": "0\n1\n",
    "jobsets": "",
}
# The job: notes that it began and with what, then does as the file says that its arguments name.
JOB = """#!/usr/bin/env bash
if [[ "$1" == dist-check ]]; then exit "$(cat "$FAKE/check" 2>/dev/null || echo 0)"; fi
printf '%s\\n' "$(printf '[%s]' "$@")" >>"$FAKE/jobs"
echo "output of ${WORKER_NUMBER:-here}"
trap 'exit 75' TERM
for _ in $(seq 300); do
  [[ ! -e "$FAKE/code" ]] || exit "$(head -n1 "$FAKE/code")"
  sleep 0.1
done
"""
PROGRAMS = ("gcloud", "sbatch", "squeue", "scontrol", "srun", "kubectl", "nvidia-smi")


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def cloud(tmp_path):
    """Fake programs in front of the PATH; `run(SCRIPT, ...)`, `calls(PROGRAM)`, `tell(...)`."""
    if shutil.which("flock") is None:
        pytest.skip("the workers are Linux machines, and this is none")
    binaries = tmp_path / "bin"
    source = pathlib.Path(__file__).with_name("fake_cloud.py").read_text()
    for name in PROGRAMS:
        executable(binaries / name, f"#!{sys.executable} -SE\n{source}")
    executable(binaries / "vla-jax", JOB)
    # What a worker has before setup.sh, and what the installation needs there.
    executable(binaries / "python3", "#!/usr/bin/env bash\nexit 0\n")
    installer = "#!/usr/bin/env bash\nmkdir -p venv/bin && touch venv/bin/activate\n"
    executable(tmp_path / "home/.local/bin/uv", installer)
    (tmp_path / "state.json").write_text(json.dumps(STATE))

    def run(script, *arguments, timeout=60, **environment):
        base = {"PATH": f"{binaries}:{os.environ['PATH']}", "HOME": str(tmp_path / "me")}
        settings = {"FAKE": str(tmp_path), "ZONE": "zone", "POLL_SECONDS": "0.1"}
        settings |= {"RESTART_SECONDS": "0", "STATE_DIR": ""} | environment
        return subprocess.run(
            ["bash", str(SCRIPTS / script), *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=base | settings,
            timeout=timeout,
        )

    def calls(program=None):
        file = tmp_path / "calls.jsonl"
        rows = map(json.loads, file.read_text().splitlines() if file.exists() else [])
        return [row for row in rows if program in (None, row["program"])]

    def verbs():
        """The gcloud calls that change something, in order."""
        found = [call["arguments"][2:4] for call in calls("gcloud")]
        return [f"{kind} {verb}" for kind, verb in found if verb != "describe"]

    def tell(**state):
        old = json.loads((tmp_path / "state.json").read_text())
        (tmp_path / "state.json").write_text(json.dumps(old | state))

    def jobs():
        """The arguments of every start of the job."""
        file = tmp_path / "jobs"
        return file.read_text().splitlines() if file.exists() else []

    yield types.SimpleNamespace(
        run=run, calls=calls, verbs=verbs, tell=tell, jobs=jobs, path=tmp_path, binaries=binaries
    )
    (tmp_path / "code").write_text("0")  # ends whatever still runs
