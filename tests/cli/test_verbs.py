"""`act`, `export` and `eval` on a run's directory, and everything they refuse."""

import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from vla_jax.cli import act
from vla_jax.cli.main import main
from vla_jax.core.errors import UserError
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.experiment.workdir import Workdir
from vla_jax.policy.export import gate, weights

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "view.png"
    Image.fromarray(PIXELS).save(path)
    return path


def test_act_prints_every_dimension_with_its_unit(vla_jax, run, picture):
    code, out, err = vla_jax("act", run, f"--image={picture}", "--instruction=pick up the red cube")
    assert code == 0, err
    lines = out.splitlines()
    for line, name, unit in zip(lines, TABLETOP.spec.names, TABLETOP.spec.units, strict=False):
        found, value, rest = line.split(maxsplit=2)
        assert (found, rest) == (name, unit)
        assert np.isfinite(float(value))
    assert len(lines[8].removeprefix("tokens: ").split()) == 8
    assert "prepare" in lines[9]
    assert "decode" in lines[9]


def test_act_refuses_more_steps_than_the_model_takes_and_a_state_of_words(refused, run, picture):
    arguments = ("act", run, f"--image={picture}", "--instruction=pick up the red cube")
    line = refused(*arguments, f"--image={picture}")
    assert "images of primary: expected 1 to 1 steps (config.loader.history)" in line
    line = refused(*arguments, "--state=0.1,left")
    assert "--state: expected numbers between commas, found 0.1,left" in line


def test_act_takes_views_by_name(vla_jax, refused, run, picture):
    code, named, _ = vla_jax(
        "act", run, f"--image=primary={picture}", "--instruction=pick up the red cube"
    )
    assert code == 0
    _, plain, _ = vla_jax("act", run, f"--image={picture}", "--instruction=pick up the red cube")
    assert named.splitlines()[:9] == plain.splitlines()[:9]
    line = refused("act", run, f"--image=wrist={picture}", "--instruction=pick")
    assert "expected the views primary, found wrist" in line


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "I;16", "CMYK"])
def test_act_refuses_another_mode_and_names_it(refused, run, tmp_path, mode):
    file = tmp_path / ("view.tif" if mode == "CMYK" else "view.png")
    if mode == "I;16":
        Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 256).save(file)
    else:
        Image.fromarray(PIXELS).convert(mode).save(file)
    line = refused("act", run, f"--image={file}", "--instruction=pick")
    assert "expected mode RGB, 8 bits per channel" in line
    assert f"found mode {mode}" in line
    assert "convert('RGB')" in line


def test_act_refuses_sixteen_bits_that_pillow_would_hide(refused, run, tmp_path):
    file = tmp_path / "deep.png"
    cv2.imwrite(str(file), PIXELS.astype(np.uint16) * 256)
    with Image.open(file) as opened:
        assert opened.mode == "RGB"
    line = refused("act", run, f"--image={file}", "--instruction=pick")
    assert "found mode RGB with 16 bits per channel" in line


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_an_image_is_read_as_it_is(tmp_path, suffix):
    file = tmp_path / f"view.{suffix}"
    Image.fromarray(PIXELS).save(file, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(act.read_image(str(file)), PIXELS)


@pytest.mark.parametrize("suffix", ["png", "tiff", "ppm"])
def test_sixteen_bits_are_refused_in_every_format(tmp_path, suffix):
    file = tmp_path / f"deep.{suffix}"
    cv2.imwrite(str(file), PIXELS.astype(np.uint16) * 256)
    with pytest.raises(UserError, match=r"16 bits per channel|format PPM is not read"):
        act.read_image(str(file))


@pytest.mark.parametrize(("suffix", "calls"), [("png", 1), ("jpg", 1), ("bmp", 0)])
def test_a_picture_is_decoded_once(tmp_path, monkeypatch, suffix, calls):
    file, seen = tmp_path / f"view.{suffix}", []
    Image.fromarray(PIXELS).save(file)
    decode = act.images_lib.decode
    monkeypatch.setattr(act.images_lib, "decode", lambda *a: seen.append(a) or decode(*a))
    if calls:  # then Pillow decodes nothing
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda picture: pytest.fail("decoded"))
    assert act.read_image(str(file)).shape == PIXELS.shape
    assert len(seen) == calls


def test_no_picture_is_decoded_that_its_header_refuses(tmp_path, monkeypatch):
    for name in ("decode", "check"):
        monkeypatch.setattr(act.images_lib, name, lambda *a: pytest.fail("decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda picture: pytest.fail("decoded"))
    file = tmp_path / "view.png"
    cv2.imwrite(str(file), PIXELS[..., 0])
    with pytest.raises(UserError, match="found mode L"):
        act.read_image(str(file))
    cv2.imwrite(str(file), np.zeros((9000, 9000, 3), np.uint8))
    with pytest.raises(UserError, match=r"too large.*9000 x 9000"):
        act.read_image(str(file))


def test_a_flipped_bit_of_a_png_is_found(picture):
    sound = picture.read_bytes()
    for place in range(40, len(sound) - 12, 97):
        data = bytearray(sound)
        data[place] ^= 1
        picture.write_bytes(data)
        with pytest.raises(UserError):
            act.read_image(str(picture))


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"hello", "expected JPEG or PNG bytes")]
)
def test_act_refuses_what_is_no_image(refused, run, tmp_path, content, message):
    file = tmp_path / "x.png"
    if content is not None:
        file.write_bytes(content)
    assert message in refused("act", run, f"--image={file}", "--instruction=pick")


def test_images_that_cannot_be_whole_are_refused(picture, tmp_path):
    cut, huge = tmp_path / "cut.png", tmp_path / "huge.png"
    cut.write_bytes(picture.read_bytes()[:-40])
    with pytest.raises(
        UserError, match=r"cut\.png: expected a PNG or JPEG file, found a damaged or"
    ):
        act.read_image(str(cut))
    Image.new("1", (20_000, 20_000)).save(huge)
    with pytest.raises(UserError, match=r"huge\.png"):
        act.read_image(str(huge))
    with pytest.raises(UserError, match="found Is a directory"):
        act.read_image(str(tmp_path))


@pytest.mark.parametrize(
    ("instruction", "message"), [(" ", "at least one word"), ("very " * 50, "is too long")]
)
def test_act_refuses_an_instruction(refused, run, picture, instruction, message):
    line = refused("act", run, f"--image={picture}", f"--instruction={instruction}")
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected the arguments WORKDIR, found none"),
        (["a", "b"], "expected the arguments WORKDIR, found a b"),
        (["a"], "expected --image=..., found none"),
        (["a", "--image=x.png"], "expected --instruction=..., found none"),
        (["a", "--imag=x.png"], "Unknown command line flag 'imag'"),
    ],
)
def test_act_says_what_is_missing(refused, arguments, message):
    assert message in refused("act", *arguments)


@pytest.mark.parametrize("verb", ["act", "export", "eval"])
@pytest.mark.parametrize("state", ["none", "no checkpoint", "damaged"])
def test_a_directory_without_a_policy_is_refused(refused, run, picture, tmp_path, verb, state):
    workdir, out = tmp_path / "run", tmp_path / "out"
    if state != "none":
        shutil.copytree(run, workdir)
    if state == "no checkpoint":
        shutil.rmtree(workdir / "checkpoints" / "7")
    if state == "damaged":
        (workdir / "config.json").write_text("{")
    rest = {
        "act": [f"--image={picture}", "--instruction=pick"],
        "export": [out, "--format=jax"],
        "eval": [],
    }
    line = refused(verb, workdir, *rest[verb])
    message = {
        "none": "expected a run",
        "no checkpoint": "expected a checkpoint, found none yet",
        "damaged": "config.json: not valid JSON",
    }
    assert message[state] in line
    assert not out.exists()


def test_export_runs_in_pytorch(vla_jax, run, tmp_path):
    pytest.importorskip("torch")
    code, out, err = vla_jax("export", run, tmp_path / "out", "--dtype=bfloat16")
    assert code == 0, err
    assert "parity in float32 on random images: prompts 64, tokens 512, wrong_tokens 0" in out
    assert "parity in bfloat16" in out
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert report["step"] == 7
    assert report["skipped"] is False
    assert report["measured"]["float32"]["failures"] == []
    assert "torch" in report["versions"]
    assert not (tmp_path / "out.incomplete").exists()


@pytest.mark.parametrize("form", ["jax"])
def test_export_runs_in_its_own_runtime(vla_jax, run, tmp_path, form):
    code, out, err = vla_jax("export", run, tmp_path / "out", f"--format={form}")
    assert code == 0, err
    assert "wrong_tokens 0" in out
    assert f"python {tmp_path}/out/jax_policy.py" in out


def test_export_refuses_what_does_not_compute_the_same(refused, run, tmp_path, monkeypatch):
    pytest.importorskip("torch")

    def lie(tensor, dtype):
        value = tensor.read().astype(np.float32)
        if tensor.name == "decoder/blocks/down":
            value = value + 1e-2
        return value.reshape(-1).view(np.uint8)

    monkeypatch.setattr(weights, "_bytes", lie)
    line = refused("export", run, tmp_path / "out")
    assert "expected what JAX computes, found float32:" in line
    assert "logits_max" in line
    assert not (tmp_path / "out").exists()
    left = tmp_path / "out.incomplete"
    assert "logits_max" in (left / "INCOMPLETE").read_text()
    assert (left / "torch_policy.py").is_file()


def test_export_skips_the_comparison_aloud(vla_jax, run, tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "_run", None)  # nothing is run
    code, out, err = vla_jax("export", run, tmp_path / "out", "--skip-parity")
    assert code == 0, err
    assert "WARNING: --skip-parity" in out
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["skipped"] is True


@pytest.mark.parametrize(
    ("flags", "found", "message"),
    [
        ([], {"safetensors": "0.5"}, "expected torch>=2.4, found no such package"),
        ([], {"safetensors": "0.5", "torch": "2.1.0+cpu"}, "expected torch>=2.4, found 2.1.0"),
        (["--format=jax"], {"jax": "0.4.30", "safetensors": "0.5"}, "expected jax>=0.5"),
    ],
)
def test_export_asks_for_its_runtime_first(
    refused, run, tmp_path, monkeypatch, flags, found, message
):
    answer = subprocess.CompletedProcess([], 0, stdout=json.dumps(found), stderr="")
    monkeypatch.setattr(gate, "_run", lambda command, python: answer)
    line = refused("export", run, tmp_path / "out", *flags)
    assert message in line
    assert "--skip-parity" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=paligemma"], "The nearest is 'hf_paligemma'"),
        (["--python=/no/such/python"], "expected a Python interpreter, found No such file"),
        (["--shard-size=0"], "expected more than 0 GB"),
        (["--dtype=int8"], "int8"),
        (["--format=openvla"], "--format=openvla cannot express config.model.images"),
    ],
)
def test_export_says_what_is_wrong_before_it_begins(refused, run, tmp_path, flags, message):
    assert message in refused("export", run, tmp_path / "out", *flags)
    assert not list(tmp_path.iterdir())


def test_export_overwrites_nothing(refused, run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert "files in it" in refused("export", run, tmp_path)
    assert "a file" in refused("export", run, tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_eval_measures_again_and_keeps_the_training(vla_jax, run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["data_dir"] = str(tmp_path / "data")  # The other tests find no data.
    (workdir / "config.json").write_text(json.dumps(config))
    code, out, err = vla_jax("eval", workdir, "--episodes=2")
    assert code == 0, err
    results = json.loads((workdir / "results.json").read_text())
    rate = 7 * config["loader"]["batch_size"] / 14
    assert results["train"] == {"steps": 7, "seconds": 14.0, "samples_per_s": rate}
    assert results["success"]["seen"]["episodes"] == 2
    assert "closed loop" in out
    assert (workdir / "curves.png").exists()
    again, _, _ = vla_jax("eval", workdir, "--episodes=2")
    assert again == 0
    found = json.loads((workdir / "results.json").read_text())
    assert {**found, "latency": None} == {**results, "latency": None}  # which is a time


def test_eval_refuses_no_episodes(refused, run):
    assert "0 is not a positive integer" in refused("eval", run, "--episodes=0")
    assert "episodes" in refused("eval", run, "--episodes=few")


def test_the_arguments_of_the_process_are_the_default(vla_jax, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vla-jax", "--help"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert "usage: vla-jax VERB" in capsys.readouterr().out


@pytest.fixture
def far_from_its_data(run, tmp_path):
    """The run, when the directories that its configuration names are gone."""
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    config = json.loads((workdir / "config.json").read_text())
    entry = {"weight": 1.0, "dir": str(tmp_path / "gone")}
    config["mixture"] |= {"name": None, "robots": {"tabletop": entry}}
    config["mixture"]["web"] = {"tabletop_questions": {"dir": str(tmp_path / "gone")}}
    (workdir / "config.json").write_text(json.dumps(config))
    return workdir


def test_a_run_acts_and_is_evaluated_without_its_datasets(vla_jax, far_from_its_data, picture):
    instruction = "--instruction=pick up the red cube"
    code, out, err = vla_jax("act", far_from_its_data, f"--image={picture}", instruction)
    assert code == 0, err
    assert out.endswith("policy of step 7\n")
    code, out, err = vla_jax("eval", far_from_its_data)
    assert code == 0, err
    assert "evaluating step 7 of" in out
    results = json.loads((far_from_its_data / "results.json").read_text())
    assert results["success"]["seen"]["episodes"] == 4
    assert not results["open_loop"]
    reasons = [line.partition(": ")[0] for line in results["left_out"]]
    assert reasons == [
        "config.mixture.robots.tabletop.dir",
        "config.mixture.web.tabletop_questions.dir",
    ]
    assert all(line in " ".join(out.split()) for line in results["left_out"])


def test_a_second_training_in_a_workdir_is_refused(refused, tmp_path):
    workdir = Workdir(tmp_path / "run")
    with workdir.held():
        line = refused("train", "--config=configs/tabletop.py:smoke", f"--workdir={workdir.path}")
    assert f"workdir {workdir.path} is in use by process {os.getpid()} on " in line


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "[]", "config.json: expected object, got array"),
        ("config.json", '{"seed": "x"}', "config.json: config.seed: expected int"),
        ("results.json", '{"success": {"seen": 3}}', "field success[...]: expected object"),
        ("results.json", '{"environment": {}}', "missing required field name"),
        ("origin.json", '{"command": 3}', "origin.json, field command: expected str, got int"),
        ("mixture.json", '{"sources": [{}]}', "mixture.json, field sources[0]: "),
    ],
)
def test_a_file_of_another_shape_is_named_with_its_field(
    refused, run, tmp_path, name, content, message
):
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    (workdir / name).write_text(content)
    line = refused("report", workdir)
    assert str(workdir / name) in line
    assert message in line
