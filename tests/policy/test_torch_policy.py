"""The one file for robots: it stands alone, and takes and refuses what the JAX policy does."""

import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
import torch
from flax import nnx

from vla_jax.data import images
from vla_jax.policy import torch_policy
from vla_jax.policy.export import folder

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def exported(tiny, observations, tmp_path_factory):
    out = tmp_path_factory.mktemp("export")
    images, instructions = observations
    folder.write(out, tiny.policy, tiny.config, images, instructions)
    return out


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


def test_logits_equal_those_of_jax(tiny, loaded, observations):
    images, instructions = observations
    row, length = tiny.policy.encoder.prefix(instructions[1], robot=True)

    @jax.jit
    def prefill(params):
        model = nnx.merge(tiny.graph, params)
        return model.prefill(images[1].images[None], row[None], np.array([length]), 0)[0]

    wanted = prefill(tiny.policy.params)
    ids = loaded.prefix(instructions[1])
    assert ids == row[len(row) - length :].tolist()
    found, _ = loaded.model.prefill(torch.from_numpy(images[1].images), torch.tensor(ids))
    np.testing.assert_allclose(found.numpy(), wanted[0, 0], atol=2e-4)


def test_bfloat16_decodes_nearly_the_same(exported, loaded, observations):
    half = torch_policy.TorchPolicy.load(exported, dtype=torch.bfloat16)
    images, instructions = observations
    prefix = torch.tensor(loaded.prefix(instructions[0]))
    exact, _ = loaded.model.prefill(torch.from_numpy(images[0].images), prefix)
    rough, _ = half.model.prefill(torch.from_numpy(images[0].images), prefix)
    assert 0 < (exact - rough).norm() / exact.norm() < 0.1


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


def test_a_folder_that_is_no_policy_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no policy\.json"):
        torch_policy.TorchPolicy.load(tmp_path)


ALONE = """
import runpy, sys

class Blocker:
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in {"vla_jax", "jax", "jaxlib", "flax", "einops"}:
            raise ImportError(f"{fullname} is blocked")

sys.meta_path.insert(0, Blocker())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_alone(folder, *arguments):
    program = str(folder / "torch_policy.py")
    code = ALONE.replace("sys.argv[0]", repr(program))
    return subprocess.run(
        [sys.executable, "-I", "-c", code, *arguments],
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


@pytest.mark.parametrize("case", ["grey", "missing", "not an image", "empty"])
def test_the_program_ends_in_one_line(exported, tmp_path, capsys, case):
    file, instruction = tmp_path / "view.png", "pick up the star"
    if case == "grey":
        cv2.imwrite(str(file), IMAGE[..., 0])
    elif case == "not an image":
        file.write_text("hello")
    elif case == "empty":
        cv2.imwrite(str(file), IMAGE)
        instruction = ""
    arguments = ["--folder", str(exported), "--image", str(file), "--instruction", instruction]
    with pytest.raises(SystemExit) as stop:
        torch_policy.main(arguments)
    assert str(stop.value).startswith("torch_policy: ")
    assert "\n" not in str(stop.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("method", ["linear", "lanczos"])
@pytest.mark.parametrize("shape", [(32, 32), (40, 56), (64, 96), (300, 333), (20, 90)])
def test_images_are_resized_as_in_training(shape, method):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = torch_policy._resize(image, 32, method)
    np.testing.assert_array_equal(found, images.resize(image, 32, method))
