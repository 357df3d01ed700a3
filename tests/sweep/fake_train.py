"""Stands for `vla-jax train`: the same files and exit codes, without learning anything.

Its behaviour is in $FAKE_TRAIN, a JSON file: `configs` by workdir, and `acts` by the name of the
run's directory: `seconds`, `codes` (one per attempt; the last repeats) and `results`.
"""

import json
import os
import pathlib
import signal
import sys
import time

workdir = next(a for a in sys.argv if a.startswith("--workdir=")).removeprefix("--workdir=")
path = pathlib.Path(workdir)
plan = json.loads(pathlib.Path(os.environ["FAKE_TRAIN"]).read_text())
act = plan["acts"].get(path.parent.name, {})
path.mkdir(exist_ok=True)
(path / "config.json").write_text(json.dumps(plan["configs"][workdir]))

attempts = path / "attempts"
with attempts.open("a") as file:
    file.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n")
number = len(attempts.read_text().splitlines()) - 1
with (path.parent.parent / "trace").open("a") as file:
    file.write(f"begin {path.parent.name}\n")


def stop(*_):
    sys.stdout.write("saved\n")
    sys.exit(75)


signal.signal(signal.SIGTERM, stop)
sys.stdout.write(f"attempt {number} of {path.parent.name}\n")
sys.stdout.flush()
time.sleep(act.get("seconds", 0.0))
codes = act.get("codes", [0])
code = codes[min(number, len(codes) - 1)]
if code:
    sys.stdout.write(f"ends with {code}\n")
    sys.exit(code)
results = act.get("results", {"success": {"seen": {"rate": 0.5}}})
(path / "metrics.jsonl").write_text(json.dumps({"step": 20}) + "\n")
(path / "results.json").write_text(json.dumps({**results, "train": {"seconds": 36.0}}))
with (path.parent.parent / "trace").open("a") as file:
    file.write(f"end {path.parent.name}\n")
