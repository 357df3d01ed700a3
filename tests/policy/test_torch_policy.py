"""The one file for robots: it stands alone, and takes and refuses what the JAX policy does."""

import json
import pathlib
import shutil
import subprocess
import sys

import cv2
import exported_images
import numpy as np
import pytest
import selftest
from small_policies import CHUNK, INSTRUCTIONS, OTHERS, export, look_around

from vla_jax.data import augment, images

pytest.importorskip("torch")
import torch_policy

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def exported(tiny, observations, tmp_path_factory):
    return export(tiny, tmp_path_factory.mktemp("export") / "policy", observations)


@pytest.fixture(scope="module")
def loaded(exported):
    return torch_policy.TorchPolicy.load(exported)


@pytest.mark.parametrize("size", [(48, 60), (32, 32), (17, 90)])
def test_any_image_size_gives_the_action_of_jax(tiny, loaded, size):
    for seed in range(8):
        rng = np.random.default_rng([seed, *size])
        image = cv2.resize(rng.integers(0, 256, (5, 5, 3), np.uint8), size[::-1])
        ours = tiny.policy.act({"primary": image}, "pick up the star")
        theirs = loaded.act({"primary": image}, "  pick up the STAR. ")
        np.testing.assert_array_equal(theirs.tokens, ours.tokens)
        np.testing.assert_array_equal(theirs.values, ours.values)
        assert theirs.values.dtype == ours.values.dtype
        assert theirs.terminate is ours.terminate
        assert theirs.milliseconds.keys() == ours.milliseconds.keys()


def test_a_plan_and_a_chunk_are_those_of_jax(tmp_path, capsys):
    built = OTHERS["planner"]()
    out = export(built, tmp_path / "policy", look_around(built, 1))
    loaded = torch_policy.TorchPolicy.load(out)
    texts = set()
    for seed in range(8):
        image = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        ours = built.policy.act({"primary": image}, INSTRUCTIONS[seed % 4])
        theirs = loaded.act({"primary": image}, INSTRUCTIONS[seed % 4])
        np.testing.assert_array_equal(theirs.tokens, ours.tokens)
        np.testing.assert_allclose(theirs.values, ours.values, rtol=1e-6, atol=1e-7)
        assert (theirs.plan, theirs.terminate) == (ours.plan, ours.terminate)
        assert theirs.values.shape == (CHUNK, 8)
        texts.add(theirs.plan)
    assert len(texts) > 1
    file = tmp_path / "image.png"
    cv2.imwrite(str(file), image[..., ::-1])
    arguments = ["--image", str(file), "--instruction", INSTRUCTIONS[3]]
    selftest.main(torch_policy.TorchPolicy.load, out, arguments)
    assert capsys.readouterr().out.splitlines()[-2] == f"plan {theirs.plan}"


@pytest.mark.parametrize(
    ("images", "instruction", "message"),
    [
        ({}, "pick up the star", "expected the views"),
        ({"wrist": IMAGE}, "pick up the star", "wrist"),
        ({"primary": IMAGE[..., 0]}, "pick up the star", r"found uint8 \[48, 60\]"),
        ({"primary": IMAGE / 255}, "pick up the star", "found float64"),
        ({"primary": IMAGE}, " ? ", "at least one word"),
        ({"primary": IMAGE}, "z " * 40, "at most 40 tokens"),
    ],
)
def test_bad_input_is_refused(loaded, images, instruction, message):
    with pytest.raises(ValueError, match=message):
        loaded.act(images, instruction)


def test_a_folder_marked_incomplete_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "policy")
    (folder / "INCOMPLETE").write_text("a token differs")
    with pytest.raises(ValueError, match="marked incomplete: a token differs"):
        torch_policy.TorchPolicy.load(folder)
    torch_policy.TorchPolicy.load(folder, unchecked=True)


def test_an_unknown_dtype_is_refused(exported):
    with pytest.raises(ValueError, match="expected one of float32, bfloat16, float16, found int8"):
        torch_policy.TorchPolicy.load(exported, dtype="int8")


def test_a_folder_that_is_no_policy_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no policy\.json"):
        torch_policy.TorchPolicy.load(tmp_path)


BLOCKED = ("jax", "jaxlib", "flax", "einops", "transformers")
ALONE = """
import os, runpy, sys

class Blocker:
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in BLOCKED:
            raise ImportError(f"{fullname} is blocked")

sys.meta_path.insert(0, Blocker())
del sys.argv[0]  # what is left is the program's own
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_alone(folder, *arguments, program="torch_policy.py", blocked=BLOCKED):
    """Runs a folder's program where nothing of this package, nor what is blocked, can be found."""
    code = ALONE.replace("BLOCKED", repr({"vla_jax", *blocked}))
    return subprocess.run(
        [sys.executable, "-I", "-c", code, str(folder / program), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
    )


def test_the_folder_runs_without_the_package(exported, tiny, tmp_path):
    file = tmp_path / "view.png"
    cv2.imwrite(str(file), IMAGE[..., ::-1])
    run = run_alone(exported, "--image", str(file), "--instruction", "pick up the red cube")
    assert run.returncode == 0, run.stderr
    action = tiny.policy.act({"primary": IMAGE}, "pick up the red cube")
    lines = run.stdout.splitlines()
    assert lines[-1] == f"tokens {' '.join(map(str, action.tokens))}"
    assert lines[1].split() == ["dx", f"{action.values[0, 1]:+.5f}", "metres", "per", "step"]


def test_the_selftest_passes_without_the_package(exported, tmp_path):
    run = run_alone(exported, "--selftest", "--json", str(tmp_path / "report.json"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "float32: as JAX" in run.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["measured"]["float32"]["prompts"] == 64
    assert "jax" in report["versions"]  # installed, and yet not imported


def test_the_jax_program_needs_jax_alone(tiny, observations, tmp_path):
    seen, instructions = observations
    out = export(tiny, tmp_path / "policy", (seen[:2], instructions[:2]), form="jax")
    others = ("flax", "einops", "optax", "orbax", "torch", "transformers", "tensorflow")
    run = run_alone(out, "--selftest", program="jax_policy.py", blocked=others)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "float32: as JAX" in run.stdout


def test_the_selftest_fails_when_a_golden_token_differs(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "policy")
    with np.load(folder / "golden.npz") as file:
        golden = dict(file)
    ids = json.loads((folder / "policy.json").read_text())["action_token_ids"]
    golden["tokens"][-1, -1] = ids[ids.index(golden["tokens"][-1, -1]) - 1]
    np.savez(folder / "golden.npz", **golden)
    run = run_alone(folder, "--selftest")
    assert run.returncode == 1
    assert "wrong_tokens 1, allowed 0" in run.stdout


@pytest.mark.parametrize("case", ["grey", "missing", "not an image", "empty"])
def test_the_program_ends_in_one_line(exported, tmp_path, capsys, monkeypatch, case):
    file, instruction = tmp_path / "view.png", "pick up the star"
    if case == "grey":
        cv2.imwrite(str(file), IMAGE[..., 0])
    elif case == "not an image":
        file.write_text("hello")
    elif case == "empty":
        cv2.imwrite(str(file), IMAGE)
        instruction = ""
    arguments = ["--folder", str(exported), "--image", str(file), "--instruction", instruction]
    monkeypatch.setattr(sys, "argv", ["torch_policy.py"])
    with pytest.raises(SystemExit) as stop:
        selftest.main(torch_policy.TorchPolicy.load, pathlib.Path(), arguments)
    assert str(stop.value).startswith("torch_policy: ")
    assert "\n" not in str(stop.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("share", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("shape", [(32, 32), (47, 63), (300, 333)])
def test_the_middle_is_that_of_training(shape, share):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    wanted = image[augment.box(augment.centre(share), *shape)]
    np.testing.assert_array_equal(exported_images.centre(image, share), wanted)


@pytest.mark.parametrize("method", ["linear", "lanczos"])
@pytest.mark.parametrize("shape", [(32, 32), (40, 56), (64, 96), (300, 333), (20, 90)])
def test_images_are_resized_as_in_training(shape, method):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = exported_images.resize(image, 32, method)
    np.testing.assert_array_equal(found, images.resize(image, 32, method))
