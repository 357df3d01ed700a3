"""Every robot on a set in its real schema, written by TFDS and read through the frame index."""

import generate
import numpy as np
import pytest

from vla_jax.data import indexing
from vla_jax.data.robots.robot import Columns
from vla_jax.data.robots.table import ROBOTS

OXE = sorted(set(ROBOTS) - {"tabletop"})


@pytest.mark.parametrize("robot", [ROBOTS[name] for name in OXE], ids=OXE)
def test_the_index_gives_an_adapter_what_the_dataset_holds(robot, tmp_path):
    drawn = generate.draw(robot.name, lengths=(3, 1, 2), seed=2)
    directory = generate.write(drawn, tmp_path / robot.name / "0.1.0", robot.name)
    wanted = indexing.Wanted(
        images=tuple(robot.images.values()), arrays=robot.arrays, texts=robot.instruction
    )
    index = indexing.ensure(directory, "train", wanted)
    assert len(index) == 6
    np.testing.assert_array_equal(index.episode, drawn.episode)

    for feature in robot.images.values():
        for i in range(len(index)):
            assert index.image_bytes(feature, i) == drawn.values[feature][i]
    for feature in robot.instruction:
        texts = drawn.per_step(feature)
        for i in range(len(index)):
            assert index.text(feature, i) == text_of(texts[i])

    arrays = {feature: index.array(feature) for feature in robot.arrays}
    columns = Columns(arrays=arrays, episode=index.episode)
    for function in (robot.action, robot.state, robot.keep):
        if function is not None:
            np.testing.assert_allclose(function(columns), function(drawn.columns), rtol=1e-6)


def text_of(value):
    """A string as it is; the codes of one without the zeros behind it."""
    return value if isinstance(value, str) else bytes(value[value > 0].tolist()).decode()
