"""Folders for other people's classes: transformers reads PaliGemma, OpenVLA's code OpenVLA."""

import copy
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import selftest
from PIL import Image
from safetensors.numpy import load_file
from small_policies import (
    CONFIGS,
    OTHERS,
    build_openvla,
    build_policy,
    export,
    look_around,
    vlm_config,
)

from vla_jax.actions.bins import Bins
from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models import pretrained
from vla_jax.policy.export import openvla, paligemma
from vla_jax.policy.export.format import Options, Wanted

pytest.importorskip("torch")
import torch_policy

transformers = pytest.importorskip("transformers")

TRANSFORMERS_4 = ("torch==2.13.0", "transformers==4.57.6", "opencv-python-headless", "pillow")
RELEASED = pathlib.Path(__file__).parents[1] / "models" / "data"
TIMM = ("tiny_dinov2", "tiny_siglip")


def paligemma_1():
    return build_policy(CONFIGS["multi_query"], prompt="openvla", seed=2, prefix=80)


@pytest.fixture(scope="module", params=["paligemma", "paligemma2", "planner"])
def built(request):
    return paligemma_1() if request.param == "paligemma" else OTHERS[request.param]()


@pytest.fixture(scope="module")
def exported(built, tmp_path_factory):
    out = tmp_path_factory.mktemp("hf") / "policy"
    return export(built, out, look_around(built), form="hf_paligemma", shard_bytes=50_000)


def wanted(built, images=1, **options):
    policy = built.policy
    return Wanted(
        config=built.config,
        encoder=policy.encoder,
        robot=policy.robot,
        images=images,
        options=Options(**options),
    )


def test_transformers_decodes_what_jax_does(built, exported):
    paligemma.check(wanted(built))
    found = selftest.run(torch_policy.TorchPolicy.load, exported, "cpu")["measured"]
    assert found["float32"]["failures"] == []
    assert found["float32"]["prompts"] == 64


def test_transformers_misses_nothing_and_keeps_every_number(built, exported):
    model, info = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        exported, output_loading_info=True, dtype="float32"
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    rows = model.get_input_embeddings().weight.detach().numpy()
    size = built.policy.encoder.tokenizer.size
    np.testing.assert_array_equal(rows[:size], built.policy.params["decoder"]["embedding"])
    assert len(rows) % 64 == 0
    assert model.config.image_token_id == size < len(rows)
    assert len(list(exported.glob("*.safetensors"))) > 1  # it was read in shards


def test_its_processor_makes_the_same_inputs(built, exported):
    processor = transformers.AutoProcessor.from_pretrained(exported)
    encoder, vision = built.policy.encoder, built.config.vision
    text = encoder.prompts.for_robot("pick up the red cube")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    found = processor(images=Image.fromarray(pixels), text=f"<image>{text}", return_tensors="np")
    row, length = encoder.prefix("pick up the red cube", robot=True)
    image = [encoder.tokenizer.size] * vision.patches
    assert found["input_ids"][0].tolist() == image + row[len(row) - length :].tolist()
    theirs = np.moveaxis(found["pixel_values"][0], 0, -1)
    np.testing.assert_allclose(theirs, pixels / 127.5 - 1, atol=1e-6)
    tokenizer = processor.tokenizer
    assert tokenizer.convert_tokens_to_ids("<image>") == encoder.tokenizer.size
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (2, 1)


def test_names_are_those_of_the_hub(exported):
    names = {name for file in exported.glob("*.safetensors") for name in load_file(file)}
    roots = {".".join(name.split(".")[:2]) for name in names}
    assert roots == {
        "vision_tower.vision_model",
        "multi_modal_projector.linear",
        "language_model.model",
    }
    for file in ("config", "generation_config", "processor_config", "preprocessor_config"):
        assert json.loads((exported / f"{file}.json").read_text())


@pytest.mark.parametrize("name", ["pg1.npz", "pg2.npz"])
def test_a_checkpoint_of_big_vision_comes_back_bit_by_bit(name, tiny, tmp_path):
    first = pretrained.load(str(RELEASED / name))
    policy = copy.copy(tiny.policy)
    policy.params, policy.encoder = first.params, copy.copy(policy.encoder)
    policy.encoder.vocabulary = first.vocabulary
    paligemma.FORMAT.write(tmp_path, policy, first.config, Options())
    second = pretrained.load(str(tmp_path))
    assert second.config.decoder == first.config.decoder
    expected, found = trees.named_leaves(first.params), trees.named_leaves(second.params)
    assert expected.keys() == found.keys()
    for leaf, value in expected.items():
        np.testing.assert_array_equal(found[leaf], value, err_msg=leaf)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": 3}, "config.model.state: expected 0, found 3"),
        ({"attention": "causal"}, "config.model.attention: expected prefix_lm"),
        ({"shuffle": 2}, "config.model.shuffle"),
        ({"projector": "mlp2"}, "config.model.projector: expected linear, found mlp2"),
        ({"vision": {"stem_strides": (4, 2), "stem_widths": (8,)}}, "stem_strides"),
        ({"vision": {"extra_tokens": 1}}, "config.model.vision.extra_tokens"),
        ({"vision": {"mean": (0.4, 0.5, 0.5)}}, "config.model.vision.mean"),
        ({"decoder": {"tied": False}}, "config.model.decoder.tied"),
        ({"decoder": {"norm_offset": 0.0}}, "config.model.decoder.norm_offset"),
        ({"decoder": {"final_softcap": 3.0}}, "softcap"),
        ({"decoder": {"query_scale": 0.3, "post_norms": True}}, "query_scale"),
    ],
)
def test_what_is_no_paligemma_is_refused(tiny, changes, message):
    other = tiny._replace(config=vlm_config(**changes))
    with pytest.raises(UserError, match="hf_paligemma cannot express") as error:
        paligemma.check(wanted(other))
    assert message in str(error.value)


def test_a_rounded_table_of_positions_is_refused():
    built = OTHERS["paligemma2"]()
    with pytest.raises(UserError, match="sincos2d: expected --dtype=float32"):
        paligemma.check(wanted(built, dtype="bfloat16"))


@pytest.fixture(scope="module")
def bridge():
    return build_openvla()


def test_openvla_has_no_plans_and_no_chunks_of_fast():
    with pytest.raises(UserError, match="scheme: expected one token for each number, found fast"):
        openvla.check(wanted(OTHERS["planner"]()))
    with pytest.raises(UserError, match="plan: expected none, found expert"):
        openvla.check(wanted(build_policy(CONFIGS["openvla"], plan="expert")))


@pytest.fixture
def code(tmp_path):
    """Stands for OpenVLA's modelling files, which are not ours to carry."""
    place = tmp_path / "code"
    place.mkdir()
    for name in openvla.CODE:
        (place / name).write_text("# theirs\n")
    return place


def test_an_openvla_folder_has_its_names_and_statistics(bridge, code, tmp_path):
    options = {"openvla_code": code, "timm_models": TIMM}
    openvla.check(wanted(bridge, **options))
    out = export(bridge, tmp_path / "policy", look_around(bridge, 2), form="openvla", **options)
    tensors = load_file(out / "model.safetensors")
    tower = "vision_backbone.featurizer.blocks.0"
    leaves = trees.named_leaves(bridge.policy.params)
    np.testing.assert_array_equal(
        tensors[f"{tower}.ls1.scale_factor"], leaves["vision/blocks/attention_scale"][0]
    )
    assert tensors[f"{tower}.attn.qkv.weight"].shape == (72, 24)
    assert "vision_backbone.fused_featurizer.attn_pool.latent" in tensors
    size = bridge.policy.encoder.tokenizer.base_size
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert tensors[f"language_model.{name}"].shape[0] == size + 64
    config = json.loads((out / "config.json").read_text())
    # What OpenVLA's predict_action computes from these files is what our tokens mean.
    vocabulary = config["text_config"]["vocab_size"] - config["pad_to_multiple_of"]
    centres = np.linspace(-1, 1, config["n_action_bins"])
    centres = (centres[1:] + centres[:-1]) / 2
    stats = {k: np.array(v) for k, v in config["norm_stats"]["bridge"]["action"].items()}
    tokens = np.array(bridge.policy.action_tokens.ids)[:, None].repeat(7, 1)
    x = centres[np.clip(vocabulary - tokens - 1, 0, len(centres) - 1)]
    ranged = 0.5 * (x + 1) * (stats["q99"] - stats["q01"]) + stats["q01"]
    theirs = np.where(stats["mask"], ranged, x)
    np.testing.assert_allclose(bridge.policy.action_tokens.decode(tokens), theirs, atol=1e-6)
    assert json.loads((out / "dataset_statistics.json").read_text()) == config["norm_stats"]
    for name in openvla.CODE:
        assert (out / name).read_text() == "# theirs\n"


def test_an_openvla_folder_comes_back_bit_by_bit(bridge, code, tmp_path):
    options = Options(openvla_code=code, timm_models=TIMM, shard_bytes=10**6)
    openvla.FORMAT.write(tmp_path, bridge.policy, bridge.config, options)
    second = pretrained.load(str(tmp_path), bridge.config)
    expected, found = (trees.named_leaves(p) for p in (bridge.policy.params, second.params))
    assert expected.keys() == found.keys()
    for leaf, value in expected.items():
        rows = len(value) if leaf in ("decoder/embedding", "decoder/head") else None
        np.testing.assert_array_equal(found[leaf][:rows], value, err_msg=leaf)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timm_models": ()}, "none of OpenVLA's"),
        ({"timm_models": ("one",)}, "expected 2 names, found 1"),
        ({"openvla_code": None}, "--openvla-code: expected a directory"),
        ({"openvla_code": pathlib.Path("/nowhere")}, "/nowhere without configuration_prismatic"),
    ],
)
def test_what_openvla_needs_is_asked_for(bridge, code, change, message):
    options = {"openvla_code": code, "timm_models": TIMM} | change
    with pytest.raises(UserError, match=message):
        openvla.check(wanted(bridge, **options))


def test_another_convention_than_openvlas_is_refused(bridge, code, tiny):
    options = {"openvla_code": code, "timm_models": TIMM}
    with pytest.raises(UserError, match="images of an example: expected 1, found 2"):
        openvla.check(wanted(bridge, images=2, **options))
    with pytest.raises(UserError, match=r"config\.model\.images: expected after_bos"):
        openvla.check(wanted(tiny, **options))
    uniform = build_openvla(convention="uniform")
    with pytest.raises(UserError, match="convention: expected openvla, found uniform"):
        openvla.check(wanted(uniform, **options))
    encoder = build_policy(CONFIGS["openvla"], prompt="openvla", prefix=80).policy.encoder
    convention = {name: _openvla_bins(robot) for name, robot in encoder.actions.items()}
    encoder.actions = convention
    with pytest.raises(UserError, match=r"action token ids: expected \d+ - 1 - bin"):
        openvla.check(
            dataclasses.replace(wanted(bridge, **options), encoder=encoder, robot="tabletop")
        )


def _openvla_bins(robot):
    robot.cut = Bins(robot.cut.counts, "openvla")
    return robot


@pytest.mark.slow
def test_version_4_of_transformers_decodes_the_same(exported, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *TRANSFORMERS_4], check=True)
    check_elsewhere(python, exported, {"transformers": "4.57.6"})


@pytest.mark.slow
@pytest.mark.skipif(
    not {"OPENVLA_CODE", "OPENVLA_PYTHON"} <= set(os.environ),
    reason="OPENVLA_CODE (their modelling files, with tiny towers) and OPENVLA_PYTHON name none",
)
def test_openvlas_own_code_decodes_the_same(bridge, tmp_path):
    options = {"openvla_code": pathlib.Path(os.environ["OPENVLA_CODE"]), "timm_models": TIMM}
    out = export(bridge, tmp_path / "policy", look_around(bridge), form="openvla", **options)
    check_elsewhere(os.environ["OPENVLA_PYTHON"], out, {"timm": "0.9.10"})


def check_elsewhere(python, out, versions):
    report = out.parent / "report.json"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run = subprocess.run(
        [python, out / "torch_policy.py", "--selftest", "--json", report],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(report.read_text())
    assert versions.items() <= found["versions"].items()
    assert "jax" not in found["versions"]
    assert found["measured"]["float32"]["failures"] == []
