import jax
import numpy as np
from flax import nnx

from vla_jax.core.batch import Target
from vla_jax.policy.observation import stack


def test_scores_are_the_log_softmax_of_the_model(tiny, observations):
    looks, texts = (part[:4] for part in observations)
    policy = tiny.policy
    rng = np.random.default_rng(0)
    targets = [
        Target(
            prefix=text,
            action=rng.uniform(-0.01, 0.01, (1, 8)).astype(np.float32),
            action_mask=np.ones(1, bool),
            dataset="tabletop",
            episode=0,
        )
        for text in texts
    ]
    nll, likeliest = policy.score_batch(looks, targets)
    room = policy.encoder.layout.prefix
    tokens, lengths, mask = policy.encoder.encode_all(targets)
    assert nll.shape == likeliest.shape == (4, policy.encoder.layout.suffix)
    assert (mask[:, room:].sum(axis=1) == 9).all()  # eight action tokens and the end
    model = nnx.merge(policy.graph, policy.params)
    seen = stack(looks)
    hidden = model.hidden(seen["images"], tokens, lengths, room, seen["image_mask"])
    chances = np.asarray(jax.nn.softmax(model.decoder.logits(hidden), axis=-1))
    for row in range(4):
        for slot in range(9):
            expected = -np.log(chances[row, slot, tokens[row, room + slot]])
            np.testing.assert_allclose(nll[row, slot], expected, rtol=1e-4)
            assert likeliest[row, slot] == chances[row, slot].argmax()
