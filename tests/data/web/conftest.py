"""Writes question sets as TFDS does."""

import io

import pytest
from question_files import picture

from vla_jax.data import records


@pytest.fixture(scope="session")
def write_tfds(tmp_path_factory):
    """Writes examples (without their images) as a TFDS version directory; returns it."""

    def write(name, features, examples, *, split="train", per_shard=4):
        tfds = records.import_tfds()
        directory = tmp_path_factory.mktemp(name) / name / "1.0.0"
        directory.mkdir(parents=True)
        image = {"image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")}
        rows = ({"image": io.BytesIO(picture(i)), **row} for i, row in enumerate(examples))
        records.write_dataset(
            directory,
            name=name,
            features=tfds.features.FeaturesDict(image | features(tfds.features)),
            splits={split: (rows, len(examples))},
            examples_per_shard=per_shard,
            version="1.0.0",
            description="A test.",
        )
        return directory

    return write
