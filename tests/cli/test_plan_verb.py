import json
import pathlib
import re
import sys

import pytest

from vla_jax.cli.main import main
from vla_jax.runtime import gpu_compiler

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
TABLETOP, PALIGEMMA = str(CONFIGS / "tabletop.py"), str(CONFIGS / "paligemma_bridge.py")


def plan(capsys, *arguments):
    """Returns exit code, standard output and standard error of a plan."""
    try:
        main(["plan", *arguments])
        code = 0
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture(autouse=True)
def argv(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vla-jax"])


@pytest.fixture
def no_gpu_compiler(monkeypatch):
    """A machine without the extra `plan-gpu`."""
    monkeypatch.setattr(gpu_compiler, "version", lambda: None)


def test_a_plan_for_gpus(capsys, tmp_path, no_gpu_compiler):
    file = tmp_path / "plans" / "plan.json"
    arguments = ["--topology", "h200:8", "--examples=1e7", "--mfu=0.5", "--price=4"]
    code, out, _ = plan(capsys, PALIGEMMA, *arguments, f"--json={file}")
    assert code == 0
    assert "fits" in out.splitlines()[-1]
    assert "2,923,335,408" in out
    assert "an estimate: the GPUs' compiler is not here (pip install 'vla_jax[plan-gpu]'" in out
    assert "config.model.remat=auto: dots, the least that should fit" in out
    written = json.loads(file.read_text())
    assert written["fits"]
    assert written["compiled_bytes"] is None
    assert written["mesh"] == {"slice": 1, "data": 1, "fsdp": 8, "tensor": 1}
    row = next(line for line in out.splitlines() if "at 50% MFU" in line)
    hours, chip_hours, cost = (float(x.strip().replace(",", "")) for x in row.split("│")[2:5])
    seconds = 1e7 * sum(written["flops_per_step"].values()) / 128 / (8 * 989e12 * 0.5)
    assert hours == pytest.approx(seconds / 3600, abs=0.01)
    assert (chip_hours, cost) == (
        pytest.approx(8 * hours, abs=0.1),
        pytest.approx(32 * hours, abs=1),
    )


def test_what_does_not_fit_ends_with_1_and_the_nearest_change(capsys):
    code, out, _ = plan(capsys, PALIGEMMA, "--topology=v5e:4x4", "--mesh=data=16", "--estimate")
    assert code == 1
    verdict, advice = out.splitlines()[-2:]
    assert "does not fit" in verdict
    assert "nearest change" in advice
    flags = [word for word in advice.split() if word.startswith("--")]
    assert flags
    code, out, _ = plan(capsys, PALIGEMMA, "--topology=v5e:4x4", *flags, "--estimate")
    assert code == 0


def test_a_search_shows_what_it_tries(capsys, no_gpu_compiler):
    code, out, _ = plan(capsys, PALIGEMMA, "--topology=h100:8", "--search", "--batch=64")
    assert code == 0
    assert "examples/s at best" in out
    assert re.search(r"batch +. 64 ", out)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--topology=v5z:2x2"], "expected CHIP:SHAPE"),
        (["--topology=h200:8", "--mesh=fspd=8"], "The nearest is 'fsdp'"),
        (["--topology=h200:8", "--mesh=fsdp=3"], "multiply to the 8 devices"),
        (["--topology=h200:8", "--batch=12"], "a multiple of 8"),
        ([], "--topology="),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, reason):
    code, _, err = plan(capsys, TABLETOP, *arguments)
    assert code == 1
    assert reason in err
    assert err.count("\n") == 1
