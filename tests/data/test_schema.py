import copy
import json

import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.data import records, schema
from vla_jax.data.schema import Feature, Split


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A directory whose metadata TFDS wrote, with a feature of every kind."""
    tfds = records.import_tfds()
    f = tfds.features
    observation = {
        "image": f.Image(shape=(8, 6, 3), encoding_format="jpeg"),
        "any": f.Image(),
        "depth": f.Image(shape=(8, 6, 1), dtype=np.uint16, encoding_format="png"),
        "state": f.Tensor(shape=(7,), dtype=np.float64),
        "pose": f.Tensor(shape=(4, 4), dtype=np.float32, encoding="zlib"),
        "names": f.Sequence(f.Text()),
        "pair": f.Sequence(f.Scalar(np.float32), length=2),
        "sound": f.Audio(),
    }
    steps = {
        "observation": observation,
        "action": {"x": f.Tensor(shape=(3,), dtype=np.float32), "open": f.Scalar(np.bool_)},
        "label": f.ClassLabel(num_classes=3),
        "text": f.Text(),
        "string": f.Scalar(np.str_),
    }
    features = f.FeaturesDict(
        {
            "steps": f.Dataset(steps),
            "metadata": {"id": f.Scalar(np.int64)},
            "answers": f.Sequence({"text": f.Text(), "box": f.BBoxFeature()}),
        }
    )
    directory = tmp_path_factory.mktemp("real") / "1.2.0"
    directory.mkdir()
    for name in (
        "train.tfrecord-00000-of-00002",
        "train.tfrecord-00001-of-00002",
        "val_seen.tfrecord-00000-of-00001",
    ):
        (directory / f"toy-{name}").touch()
    infos = [
        tfds.core.SplitInfo(name="train", shard_lengths=[2, 1], num_bytes=1),
        tfds.core.SplitInfo(name="val_seen", shard_lengths=[3], num_bytes=1),
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=directory, features=features, split_infos=infos, version="1.2.0", check_data=False
    )
    return directory


EXPECTED = [
    Feature("steps/observation/image", "image", (8, 6, 3), "uint8", True),
    Feature("steps/observation/any", "image", (None, None, 3), "uint8", True),
    Feature("steps/observation/depth", "image", (8, 6, 1), "uint16", True),
    Feature("steps/observation/state", "float", (7,), "float64", True),
    Feature("steps/observation/pose", "float", (4, 4), "float32", True, "zlib"),
    Feature("steps/observation/names", "text", (None,), "string", True),
    Feature("steps/observation/pair", "float", (2,), "float32", True),
    Feature("steps/action/x", "float", (3,), "float32", True),
    Feature("steps/action/open", "int", (), "bool", True),
    Feature("steps/label", "int", (), "int64", True),
    Feature("steps/text", "text", (), "string", True),
    Feature("steps/string", "text", (), "string", True),
    Feature("metadata/id", "int", (), "int64", False),
    Feature("answers/text", "text", (None,), "string", False),
    Feature("answers/box", "float", (None, 4), "float32", False),
]


@pytest.mark.parametrize("feature", EXPECTED, ids=lambda feature: feature.name)
def test_features_are_read_as_tfds_writes_them(real, feature):
    assert schema.read_schema(real)[feature.name] == feature


def test_every_feature_is_there_and_what_is_not_read_is_called_other(real):
    found = schema.read_schema(real)
    assert set(found) == {*(f.name for f in EXPECTED), "steps/observation/sound"}
    assert found["steps/observation/sound"].kind == "other"


def test_sizes():
    assert Feature("a", "float", (4, 4), "float32", True).size == 16
    assert Feature("a", "float", (), "float32", True).size == 1
    assert Feature("a", "float", (None, 4), "float32", True).size is None


def test_the_shards_are_those_that_tfds_names(real):
    tfds = records.import_tfds()
    names = {
        name: tuple(path.name for path in info.filepaths)
        for name, info in tfds.builder_from_directory(real).info.splits.items()
    }
    assert {name: split.shards for name, split in schema.read_splits(real).items()} == names
    assert schema.read_split(real, "train").shard_lengths == (2, 1)


def info(directory, **changes):
    split = {"name": "train", "shardLengths": ["1", "1"]} | changes.pop("split", {})
    value = {"name": "d", "version": "1.0.0", "splits": [split]} | changes
    (directory / "dataset_info.json").write_text(json.dumps(value))


def test_a_template_of_its_own_is_honoured(tmp_path):
    info(
        tmp_path,
        split={"filepathTemplate": "data/{SPLIT}_{SHARD_INDEX}of{NUM_SHARDS}.{FILEFORMAT}"},
    )
    names = ("train_00000of00002.tfrecord", "train_00001of00002.tfrecord")
    for name in names:
        (tmp_path / name).touch()
    assert schema.read_split(tmp_path, "train").shards == names


def test_without_metadata_the_shards_are_found_by_name_in_order(tmp_path):
    for name in ("d-train.tfrecord-00001-of-00002", "d-train.tfrecord-00000-of-00002"):
        (tmp_path / name).touch()
    (tmp_path / "d-validation.tfrecord").touch()
    (tmp_path / "notes.txt").touch()
    assert schema.read_splits(tmp_path) == {
        "train": Split(
            "train", ("d-train.tfrecord-00000-of-00002", "d-train.tfrecord-00001-of-00002"), None
        ),
        "validation": Split("validation", ("d-validation.tfrecord",), None),
    }


def test_a_missing_shard_is_named(tmp_path):
    info(tmp_path)
    (tmp_path / "d-train.tfrecord-00000-of-00002").touch()
    message = r"expected 2 shards.*found 1; the first that is missing is d-train.*-00001-of-00002"
    with pytest.raises(UserError, match=message):
        schema.read_splits(tmp_path)


def test_another_file_format_is_refused(tmp_path):
    info(tmp_path, fileFormat="array_record")
    with pytest.raises(
        UserError, match="expected TFRecord shards, found fileFormat 'array_record'"
    ):
        schema.read_splits(tmp_path)


def test_a_wrong_split_is_told_the_nearest(tmp_path):
    (tmp_path / "d-train.tfrecord").touch()
    with pytest.raises(
        UserError, match=r"no split 'trian': expected one of train.*nearest.*'train'"
    ):
        schema.read_split(tmp_path, "trian")


def test_a_parent_instead_of_the_version_is_told(tmp_path):
    (tmp_path / "1.0.0").mkdir()
    with pytest.raises(UserError, match=r"found none\. Name the folder of the version"):
        schema.read_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"features\.json, found no such file.*folder of the version"),
        ("{", "not valid JSON"),
        ("[]", r"features\.json: expected object, got array"),
        (
            '{"type": "old", "content": {}}',
            "expected a top level 'featuresDict'.*'content', 'type'",
        ),
    ],
)
def test_wrong_metadata_are_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "features.json").write_text(text)
    with pytest.raises(UserError, match=message):
        schema.read_schema(tmp_path)


TREE = {"featuresDict": {"features": {"x": {"tensor": {"dtype": "float32", "shape": {}}}}}}


def tree(change):
    made = copy.deepcopy(TREE)
    change(made["featuresDict"]["features"])
    return made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(x=3), "feature 'x': expected object, got int"),
        (lambda f: f["x"].update(tensor=[]), "feature 'x', field tensor: expected object"),
        (lambda f: f["x"]["tensor"].update(dtype=7), "tensor.dtype: expected str, got int"),
        (lambda f: f["x"]["tensor"].update(dtype="float33"), "'x': dtype: expected one of numpy's"),
        (lambda f: f["x"]["tensor"].update(shape={"dimensions": "7"}), "expected array, got str"),
        *(
            (lambda f, d=d: f["x"]["tensor"].update(shape={"dimensions": [d]}), r"dimensions\[0\]")
            for d in (-2, "-3", "seven", 10**30, "9" * 30, 1.5, None, 2**40)
        ),
        (lambda f: f.update(x={"sequence": {"length": "7"}}), "missing required field feature"),
        (
            lambda f: f.update(x={"sequence": {"length": [], "feature": f["x"]}}),
            "sequence.length: expected",
        ),
        (
            lambda f: f.update({"../../evil": f["x"]}),
            r"feature '\.\./\.\./evil': expected the name",
        ),
        (lambda f: f.update({"/evil": f["x"]}), "feature '/evil': expected the name of a file"),
    ],
)
def test_features_of_a_wrong_shape_are_one_line(tmp_path, change, message):
    (tmp_path / "features.json").write_text(json.dumps(tree(change)))
    with pytest.raises(UserError, match=rf"features\.json.*{message}"):
        schema.read_schema(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": 3}, "field splits: expected array, got int"),
        ({"splits": [3]}, r"field splits\[0\]: expected object, got int"),
        ({"split": {"name": None}}, r"splits\[0\]\.name: expected str, got null"),
        ({"split": {"name": "../up"}}, r"splits\[0\]\.name: expected str matching"),
        ({"split": {"shardLengths": ["two"]}}, r"shardLengths\[0\]: expected str matching"),
        ({"split": {"shardLengths": [-1]}}, r"shardLengths\[0\]: expected int >= 0"),
        ({"split": {"shardLengths": 2}}, "shardLengths: expected array, got int"),
        ({"split": {"filepathTemplate": []}}, "filepathTemplate: expected str, got array"),
        ({"split": {"filepathTemplate": "{0.a!x}{"}}, "expected 2 shards"),
        ({"name": []}, "field name: expected str, got array"),
        ({"name": ".."}, "field name: expected str matching"),
        ({"version": 1}, "field version: expected str, got int"),
    ],
)
def test_dataset_info_of_a_wrong_shape_is_one_line(tmp_path, changes, message):
    info(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        schema.read_splits(tmp_path)


def test_shards_that_lack_a_number_are_told(tmp_path):
    for number in (0, 2):
        (tmp_path / f"d-train.tfrecord-0000{number}-of-00003").touch()
    message = (
        r"expected 3 shards, as .* says, found 2; the first that is missing is .*00001-of-00003"
    )
    with pytest.raises(UserError, match=message):
        schema.read_splits(tmp_path)
