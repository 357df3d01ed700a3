"""A run that trains adapters over a released PaliGemma, and what leaves it for PyTorch."""

import dataclasses
import json
import pathlib
import runpy

import jax
import numpy as np
import pytest
from small_policies import BINS, CONFIGS, build_policy, export, look_around

from vla_jax.core import config as config_lib
from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.experiment import adapters, exporting, load, training
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.policy.export.format import Options
from vla_jax.runtime.checkpoint import Checkpoints

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TABLETOP = pathlib.Path(__file__).parents[2] / "configs" / "tabletop.py"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A released model: random weights in the hub's layout."""
    built = build_policy(CONFIGS["multi_query"], prompt="openvla", seed=2, prefix=80)
    out = tmp_path_factory.mktemp("lora") / "base"
    return export(built, out, look_around(built), form="hf_paligemma")


@pytest.fixture(scope="module")
def config(base, tmp_path_factory):
    c = runpy.run_path(str(TABLETOP))["get_config"]("smoke")
    c.data_dir = str(tmp_path_factory.mktemp("data"))
    c.model = config_lib.to_config_dict(CONFIGS["multi_query"])
    c.tabletop.image_size = 32
    c.tabletop.demonstrations.episodes = 12
    c.tabletop.questions.update(train=30, validation=12)
    c.bins.count = BINS
    c.pretrained.path = str(base)
    c.tokenizer.path = str(base / "tokenizer.json")
    c.action_tokens.initialization = "none"
    c.sequence.update(prefix=120, suffix=40)
    c.strategy.kind = "lora"
    c.strategy.lora.update(rank=4, alpha=8.0)
    c.optimizer.update(rule="adamw", learning_rate=0.03)
    c.checkpoint.every = 2
    c.loop.update(steps=4, log_every=2, eval_every=100)
    return config_lib.build(RunConfig, c)


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    workdir = Workdir(tmp_path_factory.mktemp("run") / "lora")
    training.train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def exported(workdir):
    out = workdir.path.parent / "exported"
    exporting.export(workdir, out, form="hf_paligemma", options=Options(peft=True))
    return out


def test_a_checkpoint_holds_the_adapters_and_not_the_base(config, workdir):
    run = load.open_run(workdir)
    names = trees.named_leaves(run.trained)
    assert names
    assert all(name[-2:] in ("/a", "/b") for name in names)
    with Checkpoints(workdir.checkpoints) as checkpoints:
        saved = checkpoints.restore_params(jax.eval_shape(lambda: run.trained))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(saved["decoder"])) > 0.05
    size = sum(leaf.size for leaf in names.values())
    assert size < 0.3 * run.model.size
    assert workdir.frozen.is_dir()


def test_the_merged_model_passes_the_gate(exported):
    report = json.loads((exported / "parity.json").read_text())
    assert report["measured"]["float32"]["prompts"] == 64
    assert not report["skipped"]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_peft_makes_the_same_model_of_base_and_adapters(base, exported):
    def read(folder):
        return transformers.PaliGemmaForConditionalGeneration.from_pretrained(
            folder, dtype="float32"
        )

    adapted = peft.PeftModel.from_pretrained(read(base), exported / "adapter").eval()
    models = {"adapted": adapted, "merged": read(exported).eval(), "base": read(base).eval()}
    rng = np.random.default_rng(0)
    image = models["merged"].config.image_token_id
    patches = CONFIGS["multi_query"].vision.patches
    ids = np.concatenate([np.full((2, patches), image), rng.integers(4, 200, (2, 9))], axis=1)
    inputs = {
        "input_ids": torch.from_numpy(ids),
        "pixel_values": torch.from_numpy(rng.normal(0, 1, (2, 3, 32, 32)).astype(np.float32)),
        "attention_mask": torch.ones(ids.shape, dtype=torch.long),
    }
    with torch.no_grad():
        logits = {name: model(**inputs).logits.numpy() for name, model in models.items()}
    off = np.abs(logits["adapted"] - logits["merged"]).max() / logits["merged"].std()
    assert off < 1e-5
    assert np.abs(logits["base"] - logits["merged"]).max() > 0.1  # the adapters do something


@pytest.mark.parametrize(
    ("changes", "form", "message"),
    [
        ({}, "torch", "--peft: expected --format=hf_paligemma"),
        ({"strategy": {"kind": "full"}}, "hf_paligemma", "config.strategy.kind: expected lora"),
        ({"pretrained": {"path": None}}, "hf_paligemma", "config.pretrained.path"),
        ({"action_tokens": {"scheme": "extend"}}, "hf_paligemma", "no scheme=extend"),
    ],
)
def test_adapters_that_fit_no_base_are_refused(config, changes, form, message):
    for field, values in changes.items():
        config = dataclasses.replace(
            config, **{field: dataclasses.replace(getattr(config, field), **values)}
        )
    with pytest.raises(UserError) as error:
        adapters.check(config, form)
    assert message in str(error.value)
