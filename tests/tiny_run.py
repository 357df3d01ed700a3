"""The smoke run, smaller still: a config file for tests that train."""

import pathlib
import runpy

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def get_config():
    """Returns a run of 12 steps, a checkpoint after every second."""
    c = runpy.run_path(str(CONFIGS / "tabletop.py"))["get_config"]("smoke")
    c.tabletop.image_size = c.model.vision.image_size = 16
    c.tabletop.demonstrations.episodes = 12
    c.tabletop.questions.train = 30
    c.tabletop.questions.validation = 12
    c.model.vision.update(
        patch_size=8, depth=1, width=16, heads=2, mlp=16, stem_strides=(), stem_widths=()
    )
    c.model.decoder.update(width=16, depth=1, mlp=16, heads=2, key_heads=1, head_dim=8)
    c.model.unroll = 1
    c.sequence.prefix = 32  # so few questions do not hold every word of the held-out ones
    c.checkpoint.every = 2
    c.loop.update(steps=12, log_every=1, eval_every=6)
    c.evaluation.update(
        episodes=3, quick_episodes=2, questions=12, frames=8, film=2, slots=3, blocks=(2, 2)
    )
    return c
