import types

import jax
import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.experiment.nonfinite import Nonfinite
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime import sharding
from vla_jax.train.loop import LoopConfig
from vla_jax.train.window import Failed

MESH = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2))


class Loader:
    """Batches of eight that say which they are."""

    def again(self, batch):
        arrays = types.SimpleNamespace(tokens=np.full((8, 3), batch), state=None)
        return arrays, [f"arm shard s-{batch} episode {row} step 7" for row in range(8)]


@pytest.fixture
def examine(tmp_path):
    def examine(*, count=0, **settings):
        return Nonfinite(LoopConfig(**settings), Loader(), MESH, tmp_path / "nonfinite", count)

    return examine


def failed(bad, *, step=12, loss=float("nan"), spread=True):
    losses = np.arange(8, dtype=np.float32)
    losses[list(bad)] = np.nan
    place = sharding.batch_sharding(MESH)
    if not spread:
        place = jax.sharding.NamedSharding(MESH, jax.sharding.PartitionSpec())
    return Failed(
        step=step, loss=loss, gradient_norm=float("inf"), example_loss=jax.device_put(losses, place)
    )


@pytest.mark.parametrize("spread", [True, False])
def test_the_examples_are_named_and_their_batch_is_kept(examine, tmp_path, spread):
    with pytest.raises(UserError) as caught:
        examine()(failed({5, 2}, spread=spread))
    message = str(caught.value)
    assert message.startswith(
        "training step 12: the loss is nan, from arm shard s-11 episode 2 step 7, "
        "arm shard s-11 episode 5 step 7; the batch is in "
    )
    assert "--config.loop.on_nonfinite=skip" in message
    with np.load(tmp_path / "nonfinite" / "12.npz") as saved:
        assert set(saved) == {"tokens", "example_loss", "place"}
        np.testing.assert_array_equal(saved["tokens"], np.full((8, 3), 11))
        assert np.flatnonzero(np.isnan(saved["example_loss"])).tolist() == [2, 5]
        assert saved["example_loss"][3] == 3
        assert saved["place"][5] == "arm shard s-11 episode 5 step 7"


def test_of_many_examples_a_few_are_named(examine):
    with pytest.raises(UserError, match=r"episode 4 step 7 and 3 more; the batch"):
        examine()(failed(range(8)))


def test_a_gradient_alone_names_no_example(examine):
    with pytest.raises(UserError, match=r"gradient norm is inf, while the losses of all 8 ex"):
        examine()(failed({}, loss=1.5))


def test_skipped_batches_are_noted_and_counted_up_to_a_limit(examine, tmp_path, capsys):
    skipping = examine(on_nonfinite="skip", max_nonfinite=4, count=2)
    skipping(failed({0}, step=3))
    skipping(failed({1}, step=9))
    said = capsys.readouterr().out
    assert "skipped the update (3 so far): training step 3: the loss is nan, from arm" in said
    assert "(4 so far): training step 9" in said
    with pytest.raises(UserError, match=r"5 batches .* step 11: expected at most 4 \(config\.loop"):
        skipping(failed({1}, step=11))
    assert {path.name for path in (tmp_path / "nonfinite").iterdir()} == {
        *("3.npz", "9.npz", "11.npz")
    }
    assert skipping.count == 5
