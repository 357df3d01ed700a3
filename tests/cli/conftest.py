"""A run that was never trained: its directory, with random parameters, as training leaves it."""

import dataclasses

import jax
import numpy as np
import pytest

from vla_jax.actions.statistics import Statistics
from vla_jax.cli.main import main
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.envs.tabletop.datasets import DatasetsConfig
from vla_jax.envs.tabletop.demonstrations import DemonstrationsConfig
from vla_jax.envs.tabletop.questions import QuestionsConfig
from vla_jax.experiment import parts
from vla_jax.experiment.config import EvaluationConfig, RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.runtime import mesh
from vla_jax.runtime.checkpoint import CheckpointConfig, Checkpoints
from vla_jax.tokens import action_tokens
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.tokens.tokenizer import Tokenizer

STEP, SECONDS = 7, 14.0


def run_config(data_dir):
    return RunConfig(
        data_dir=str(data_dir),
        tabletop=DatasetsConfig(
            demonstrations=DemonstrationsConfig(episodes=10),
            questions=QuestionsConfig(train=10, validation=10),
        ),
        model=VLMConfig(
            vision=ViTConfig(image_size=64, patch_size=16, width=16, depth=1, heads=2, mlp=16),
            decoder=DecoderConfig(width=16, depth=1, mlp=16, heads=2, key_heads=1, head_dim=8),
            dtype="bfloat16",
            remat="none",
        ),
        loader=dataclasses.replace(RunConfig().loader, held_out=0.2),
        prompts=PromptsConfig(robot="plain", web="plain"),
        sequence=SequenceConfig(prefix=120, suffix=16),  # most words are spelled out
        evaluation=EvaluationConfig(episodes=4, questions=4, frames=4, film=1, slots=4),
    )


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The directory of a run whose datasets are not on disk."""
    root = tmp_path_factory.mktemp("run")
    config = run_config(root / "data")
    workdir = Workdir(root / "run")
    workdir.claim(config)
    spec = TABLETOP.spec
    tokenizer = Tokenizer.train(["pick up the red cube"], 300, 256)
    tokenizer, ids = action_tokens.choose_ids(config.action_tokens, tokenizer, config.bins.count)
    statistics = Statistics.of(np.array([spec.low, spec.high], np.float32))
    encoder = Encoder(
        tokenizer,
        {"tabletop": action_tokens.ActionTokens(spec, statistics, ids)},
        config.prompts,
        config.sequence,
    )
    workdir.save_encoder(encoder)
    model = parts.Model(
        config, tokenizer.size, mesh.make_mesh(mesh.MeshConfig(), jax.devices()[:1])
    )
    state = model.create(encoder)
    with Checkpoints(workdir.checkpoints, CheckpointConfig()) as checkpoints:
        checkpoints.save(STEP, {"params": state.params}, {"seconds": SECONDS})
    return workdir.path


@pytest.fixture
def vla_jax(capsys, monkeypatch):
    """Runs a command line in this process; returns exit code, standard output and error."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # The tests have their own.

    def call(*arguments):
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def refused(vla_jax):
    """Runs a command line that must fail as a mistake of the user; returns the one line."""

    def call(*arguments):
        code, out, err = vla_jax(*arguments)
        assert code == 1, (out, err)
        assert err.startswith("vla-jax: ")
        assert err.count("\n") == 1, err
        assert err.endswith("\n")
        assert "Traceback" not in err
        return err

    return call
