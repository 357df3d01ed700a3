"""Folders that are not as they were written, or make no sense: refused by `load`, in one line."""

import json
import shutil

import exported_checks
import exported_images
import exported_manifest
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from small_policies import export

torch = pytest.importorskip("torch")
torch_policy = pytest.importorskip("torch_policy")

LOAD = torch_policy.TorchPolicy.load
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
TEXT = "pick up the star"


@pytest.fixture(scope="module")
def exported(tiny, observations, tmp_path_factory):
    seen, instructions = observations
    out = tmp_path_factory.mktemp("export") / "policy"
    return export(tiny, out, (seen[:2], instructions[:2]))


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "policy")


def flipped(folder, count, seed):
    """Flips one random bit at a time, in a random file; yields (file, what `load` says)."""
    rng, files = np.random.default_rng(seed), sorted(p for p in folder.rglob("*") if p.is_file())
    for _ in range(count):
        file = files[rng.integers(len(files))]
        data = file.read_bytes()
        place = int(rng.integers(len(data)))
        spoiled = bytearray(data)
        spoiled[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(spoiled)
        try:
            LOAD(folder)
            yield file, ""
        except ValueError as error:
            yield file, str(error)
        finally:
            file.write_bytes(data)


def all_noticed(found):
    """What may differ unseen is the manifest's white space alone, which nothing reads."""
    unseen = {file.name for file, message in found if not message}
    is_short = not any("\n" in message for _, message in found)
    return unseen <= {exported_manifest.FILE} and is_short


def test_a_flipped_bit_is_noticed(folder):
    assert all_noticed(list(flipped(folder, 40, 0)))


@pytest.mark.slow
def test_any_of_many_flipped_bits_is_noticed(folder):
    assert all_noticed(list(flipped(folder, 600, 1)))


def edit(change):
    """Returns what changes policy.json and accepts that."""

    def spoil(folder):
        path = folder / "policy.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))
        exported_manifest.accept(folder)

    return spoil


def put(name, value):
    *parents, last = name.split(".")

    def change(values):
        for parent in parents:
            values = values[parent]
        values[int(last) if isinstance(values, list) else last] = (
            value(values[last]) if callable(value) else value
        )

    return edit(change)


def swap(values):
    bounds = values["bounds"]
    bounds["low"], bounds["high"] = bounds["high"], bounds["low"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (put("bounds.low", float("nan")), "field bounds.low: expected a list, found nan"),
        (put("bounds.low", lambda row: [*row[:-1], float("nan")]), r"low\[7\]: expected a finite"),
        (put("bounds.high", lambda row: row[:1]), "bounds.high: expected 8 entries"),
        (edit(swap), "bounds, dimension 0: expected low <= high"),
        (put("statistics.q01", lambda row: [99.0, *row[1:]]), "dimension 0: expected q01 <= q99"),
        (put("statistics.std", lambda row: [-1.0, *row[1:]]), r"std\[0\]: expected at least 0"),
        (put("action_token_ids", lambda ids: ids[::-1]), "expected the ids of 2 bins in policy"),
        (
            put("action_token_ids", lambda ids: [i + 1 for i in ids]),
            "action_token_ids|expected the",
        ),
        (put("action_token_ids", lambda ids: [ids[0]] * len(ids)), "expected different ids"),
        (put("action_token_ids", lambda ids: [-1, *ids[1:]]), r"ids\[0\]: expected an id below"),
        (
            put("action_token_ids", lambda ids: ids[1:]),
            "expected 64 ids, as many as bins, found 63",
        ),
        (
            put("bins.centres", lambda rows: [rows[0][::-1], *rows[1:]]),
            "expected ascending centres",
        ),
        (put("bins.centres", lambda rows: rows[1:]), "centres: expected 8 entries, .* found 7"),
        (put("prompt.template", "do it"), "expected the place {text} once and no other"),
        (put("prompt.template", "{text"), "field prompt.template: "),
        (put("prompt.template", "{text} {}"), "expected the place {text} once"),
        (put("image.size", 64), "field image.size: expected 32, as the model, found 64"),
        (put("image.size", "32"), "field image.size: expected a value of type int, found '32'"),
        (put("image.centre", 0), "field image.centre: expected a share, found 0"),
        (put("tokenizer_size", 5), "expected an id below 5|expected 5 ids"),
        (put("special_tokens.eos", 0), "special_tokens: expected different ids"),
        (put("chunk", 0), "field chunk: expected at least 1, found 0"),
        (put("chunk", 2), "expected the ids of|found 0 ids"),
        (put("views", []), "field views: expected different names"),
        (put("model.vocabulary", 999), r"grammar\.npz: expected 999 ids"),
        (put("model.decoder", None), "field model.decoder: expected an object, found None"),
        (put("format", "onnx"), "is of format onnx, which PyTorch does not run"),
        (put("format_version", None), "expected format 6"),
        (put("parameters", lambda shapes: shapes | {"more": [1]}), r"expected tensor \['more'\]"),
    ],
)
def test_what_makes_no_sense_is_refused_though_it_was_accepted(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message) as refused:
        LOAD(folder)
    assert "\n" not in str(refused.value)


def weights(change):
    """Returns what changes the weights and accepts that."""

    def spoil(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        exported_manifest.accept(folder)

    return spoil


def lose(tensors):
    del tensors["decoder/norm"]


def cut_stacks(tensors):
    for name, value in tensors.items():
        if name.startswith("decoder/blocks/"):
            tensors[name] = value[:1].copy()


def one_is_nan(tensors):
    tensors["decoder/norm"][3] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose, r"expected tensor \['decoder/norm'\], found 1 such"),
        (cut_stacks, r"tensor decoder/blocks/\S+: expected \[2, .*\], found \[1, "),
        (one_is_nan, "tensor decoder/norm: expected finite numbers"),
    ],
)
def test_weights_that_make_no_sense_are_refused(folder, change, message):
    weights(change)(folder)
    with pytest.raises(ValueError, match=message):
        LOAD(folder)


def test_other_weights_are_noticed_and_may_be_accepted(folder, capsys):
    path = folder / "model.safetensors"
    save_file({name: 1.5 * value for name, value in load_file(path).items()}, path)
    with pytest.raises(ValueError, match=r"model\.safetensors: not as it was written") as refused:
        LOAD(folder)
    assert LOAD(folder, verify=False)
    command = str(refused.value).partition("accept the change: ")[2].split()
    assert exported_manifest.accept(command[-1])
    assert command[:2] == ["python", exported_manifest.__file__]
    LOAD(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("grammar.npz", r"grammar\.npz: No such file"),
        ("tokenizer.json", r"tokenizer\.json: No such file"),
        ("model.safetensors", r"model\.safetensors: No such file"),
        ("torch_model.py", r"torch_model\.py: No such file"),
        ("manifest.json", r"manifest\.json: No such file"),
        ("policy.json", r"it has no policy\.json"),
    ],
)
@pytest.mark.parametrize("kind", ["gone", "cut", "directory"])
def test_a_file_that_is_not_there_is_named(folder, name, message, kind):
    path = folder / name
    data = path.read_bytes()
    path.unlink()
    if kind == "cut":
        path.write_bytes(data[: len(data) // 2])
        message = rf"{name}.*(not as it was written|expected|not valid JSON)"
    elif kind == "directory":
        path.mkdir()
        message = message.replace("No such file", "Is a directory")
    with pytest.raises(ValueError, match=message) as refused:
        LOAD(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["../policy.json", "/etc/passwd", "a/../b", "", "a//b", "."])
def test_a_manifest_names_files_of_its_folder(folder, name):
    path = folder / exported_manifest.FILE
    values = json.loads(path.read_text())
    values["sha256"][name] = "0" * 64
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"manifest\.json: expected the SHA-256 of files by name"):
        LOAD(folder)


@pytest.mark.parametrize(
    ("images", "instruction", "message"),
    [
        ({"primary": IMAGE}, None, "instruction: expected a text, found NoneType"),
        ({"primary": IMAGE}, b"pick", "instruction: expected a text, found bytes"),
        ({"primary": IMAGE}, "pick \udc80", "found a surrogate"),
        ({"primary": IMAGE[:0]}, TEXT, r"expected RGB uint8 .* found uint8 \[0, 32, 3\]"),
        ({"primary": None}, TEXT, "found object"),
        ({"primary": []}, TEXT, "expected 1 to 1 steps, found 0"),
        ({"primary": [[1, 2], [3]]}, TEXT, "expected 1 to 1 steps, found 2"),
        ({"primary": "x.png"}, TEXT, "expected 1 to 1 steps, found 5"),
        ({"primary": IMAGE.astype(np.int64)}, TEXT, "found int64"),
        ({"primary": IMAGE[None, None]}, TEXT, "image primary: expected RGB uint8"),
        (IMAGE, TEXT, "expected the views .* found ndarray"),
        (None, TEXT, "expected the views .* found NoneType"),
    ],
)
def test_what_is_no_observation_is_refused(exported, images, instruction, message):
    with pytest.raises(ValueError, match=message) as refused:
        LOAD(exported, verify=False).act(images, instruction)
    assert "\n" not in str(refused.value)


def test_what_is_no_action_is_not_returned(exported):
    policy = LOAD(exported)
    tokens = policy.act({"primary": IMAGE}, TEXT).tokens
    for place, token in ((0, -1), (1, 10**6), (2, 0)):
        wrong = tokens.copy()
        wrong[place] = token
        policy.model.decode = lambda *_, wrong=wrong: (wrong, None)
        with pytest.raises(ValueError, match=f"token {place} of an action: expected a legal id"):
            policy.act({"primary": IMAGE}, TEXT)
    policy.model.decode = lambda *_: (tokens, None)
    for value in (np.nan, np.inf, 1e6):
        policy.read = lambda _, value=value: (np.full((1, 8), value, np.float32), "")
        with pytest.raises(ValueError, match="action, step 0, terminate: expected 0 to 1, found"):
            policy.act({"primary": IMAGE}, TEXT)


def test_logits_that_are_no_numbers_are_refused(exported):
    policy = LOAD(exported)
    policy.model._parameters["decoder/norm"][:] = torch.inf
    with pytest.raises(ValueError, match="logits are not finite"):
        policy.act({"primary": IMAGE}, TEXT)


def test_a_huge_image_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(ValueError, match="at most 67108864 pixels, found 20000 x 20000"):
        exported_images.read(str(path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="found 20000 x 20000"):
        exported_images.read(str(path))


@pytest.mark.parametrize("kind", [int, float, bool, str, [int], {"a": int}])
@pytest.mark.parametrize("value", [None, 1, 1.5, True, "1", [1], ["1"], {"a": 1}, {}, float("inf")])
def test_types_are_those_of_json(kind, value):
    fits = {
        int: value == 1 and type(value) is int,
        float: type(value) in (int, float) and value != float("inf"),
        bool: value is True,
        str: value == "1",
    }
    fitting = fits[kind] if isinstance(kind, type) else value in ([1], {"a": 1})
    fitting = fitting and (isinstance(kind, type) or type(kind) is type(value))
    if fitting:
        exported_checks.conform(value, kind, "x")
        exported_checks.conform(value, (kind,), "x")
    else:
        with pytest.raises(ValueError, match=r"x.*: expected"):
            exported_checks.conform(value, kind, "x")
