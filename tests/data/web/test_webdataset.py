import gzip
import io
import json
import tarfile

import pytest
from object_store import serve
from question_files import picture, write_tar

from vla_jax.core.errors import UserError
from vla_jax.data.web.table import WebConfig, open_web

VQA = [{"question": f"How many? {i}", "answers": [str(i), str(i), "many"]} for i in range(5)]


def shard(rows, first=0):
    for i, row in enumerate(rows, first):
        yield f"./part/{i:04d}.jpg", picture(i)
        yield f"./part/{i:04d}.json", json.dumps(row).encode()


@pytest.fixture
def directory(tmp_path):
    write_tar(tmp_path / "vqa-train-000000.tar", shard(VQA[:3]))
    write_tar(tmp_path / "vqa-train-000001.tar", shard(VQA[3:], 3))
    write_tar(tmp_path / "vqa-val-000000.tar", shard(VQA[:1]))
    return tmp_path


def opened(directory, split="train", layout="qa", **kwargs):
    config = WebConfig(format="webdataset", layout=layout, split=split)
    return open_web("web", config, directory=directory, **kwargs)


def test_every_key_is_an_example(directory):
    source = opened(directory)
    assert len(source) == 5
    for i, row in enumerate(VQA):
        example = source.example(i, draw=2)
        assert example.images == {"primary": (picture(i),)}
        assert (example.prefix, example.suffix) == (row["question"], "many")
        assert source.answers(i) == row["answers"]
    assert source.place(4).endswith("vqa-train-000001.tar, example 4")
    # The number is that of the split, of whichever part.
    assert opened(directory, "train[60%:]").place(1) == source.place(4)


def test_shards_belong_to_the_split_that_their_name_says(directory):
    assert len(opened(directory, "val")) == 1
    with pytest.raises(UserError, match=r"split 'test'.*found vqa-train-000000\.tar, "):
        opened(directory, "test")


def test_numbered_shards_are_the_split_train(tmp_path):
    write_tar(tmp_path / "00000.tar", shard(VQA[:2]))
    write_tar(tmp_path / "00001.tar", shard(VQA[2:]))
    assert len(opened(tmp_path)) == 5


def test_a_folder_may_be_the_split(tmp_path):
    write_tar(tmp_path / "validation" / "a.tar", shard(VQA[:2]))
    assert len(opened(tmp_path, "validation")) == 2


def test_captions_in_text_files(tmp_path):
    files = [
        ("a/1.2.txt", b"not of this key"),  # key a/1, extension 2.txt
        ("a/1.txt", "  größer als zuvor \n".encode()),
        ("a/1.PNG", picture(1, ".png")),
        ("a/2.jpeg", picture(2)),
        ("a/2.cls", b"3"),
        ("a/2.txt", b"two"),
    ]
    write_tar(tmp_path / "train.tar", files)
    source = opened(tmp_path, layout="coco_captions")
    assert [source.example(i).suffix for i in (0, 1)] == ["größer als zuvor", "two"]
    assert source.example(0).images["primary"] == (picture(1, ".png"),)
    assert source.example(1).images["primary"] == (picture(2),)


def test_long_names_and_folders_are_read(tmp_path):
    path = tmp_path / "train.tar"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        with tarfile.open(path, "w", format=form) as tar:
            folder = tarfile.TarInfo("part" * 20)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for name, data in shard(VQA):
                info = tarfile.TarInfo(name.replace("part", "part" * 20 + "/" + "deep" * 12))
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        source = opened(tmp_path)
        assert [source.example(i).prefix for i in range(5)] == [row["question"] for row in VQA]


def test_nested_answers_of_the_annotation_files(tmp_path):
    row = {
        "question": "What is it?",
        "answers": [{"answer": "a cat", "answer_id": 1}, {"answer": "cat", "answer_id": 2}],
        "multiple_choice_answer": "cat",
        "answer_type": "other",
    }
    write_tar(tmp_path / "train.tar", shard([row]))
    source = opened(tmp_path, layout="vqav2")
    assert source.answers(0) == ["a cat", "cat"]
    assert source.question_kind(0) == "other"


def test_shards_on_a_server_are_read_by_ranges(directory, tmp_path):
    (tmp_path / "train").mkdir()
    for path in directory.glob("*train*.tar"):
        path.rename(tmp_path / "train" / path.name)
    with serve(tmp_path) as store:
        source = opened(store.url, cache_dir=tmp_path / "cache")
        store.gets.clear()
        assert source.example(4).images["primary"] == (picture(4),)
        assert len(store.gets) == 1
        assert store.gets[0][0] == "vqa-train-000001.tar"


def damaged(path, position, data):
    content = bytearray(path.read_bytes())
    content[position : position + len(data)] = data
    path.write_bytes(content)


def test_a_damaged_header_is_no_end_of_the_archive(directory):
    path = directory / "vqa-train-000001.tar"
    with tarfile.open(path) as tar:
        position = tar.getmembers()[2].offset
    damaged(path, position, b"\x07garbage")
    with pytest.raises(
        UserError, match=rf"vqa-train-000001\.tar, byte {position}: not a whole tar"
    ):
        opened(directory)


@pytest.mark.parametrize("bytes_left", [100, 1000, 2500])
def test_a_truncated_tar_is_named(tmp_path, bytes_left):
    path = tmp_path / "train.tar"
    write_tar(path, shard(VQA))
    path.write_bytes(path.read_bytes()[:bytes_left])
    with pytest.raises(UserError, match=r"dataset web, shard .*train\.tar.*(whole tar|no text)"):
        opened(tmp_path)


def test_a_compressed_tar_is_refused(tmp_path):
    path = tmp_path / "train.tar"
    write_tar(path, shard(VQA))
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UserError, match=r"train\.tar, byte 0: .*an uncompressed tar"):
        opened(tmp_path)


def test_a_key_without_text_or_image_is_named(tmp_path):
    files = list(shard(VQA[:2]))
    write_tar(tmp_path / "train.tar", files[:3])
    with pytest.raises(UserError, match=r"key './part/0001': no text: .*\.json or \.txt.*\.jpg"):
        opened(tmp_path)
    write_tar(tmp_path / "train.tar", [*files[:2], *files[3:]])
    with pytest.raises(UserError, match=r"key './part/0001': no image: .*\.jpg or .*\.json"):
        opened(tmp_path)


def test_a_key_without_the_question_is_named(tmp_path):
    write_tar(tmp_path / "train.tar", shard([*VQA[:1], {"caption": "a", "url": "b"}]))
    with pytest.raises(UserError, match=r"key './part/0001': no field 'question'.*caption, url"):
        opened(tmp_path)


def test_text_that_is_not_utf8_is_named(tmp_path):
    write_tar(tmp_path / "train.tar", [("1.jpg", picture(1)), ("1.txt", b"gr\xfc\xdfe")])
    with pytest.raises(UserError, match=r"key '1': not UTF-8: .*byte 0xfc after b'gr'"):
        opened(tmp_path, layout="coco_captions")


def member_ends(path):
    with tarfile.open(path) as tar:
        return [entry.offset for entry in tar.getmembers()][1:]


def test_a_tar_without_its_end_is_refused_wherever_it_was_cut(tmp_path):
    path = tmp_path / "train.tar"
    write_tar(path, shard(VQA))
    whole = path.read_bytes()
    ends = member_ends(path)
    last = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for cut in [*ends, last, last + 512, last + 1000]:
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"train\.tar.*(without the blocks|no text)"):
            opened(tmp_path)
    path.write_bytes(whole[: last + 1024])
    assert len(opened(tmp_path)) == 5
    path.write_bytes(whole + whole)
    with pytest.raises(UserError, match="behind the end of the archive"):
        opened(tmp_path)


def test_what_macos_puts_beside_files_is_ignored(tmp_path):
    files = [
        (f"{folder}{prefix}{name.removeprefix('./part/')}", data)
        for name, data in shard(VQA)
        for folder, prefix in (("part/", "._"), ("__MACOSX/part/", "._"), ("part/", ""))
    ]
    write_tar(tmp_path / "train.tar", files)
    assert len(opened(tmp_path)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: [*files, *files[:2]], "the key again"),
        (lambda files: [*files[:2], files[1], *files[2:]], r"several \.json"),
        (lambda files: [("../x.jpg", picture(9)), ("../x.json", b"{}"), *files], "below the arch"),
        (lambda files: [("/x.jpg", picture(9)), ("/x.json", b"{}"), *files], "below the archive"),
        (lambda files: [("x.jpg", picture(9)), *files], "no text"),
        (lambda files: [("x.jpg", picture(9)), ("x.json", b"[1"), *files], "not valid JSON"),
        (lambda files: [("x.jpg", picture(9)), ("x.json", b'{"question": 1}'), *files], "answer"),
    ],
)
def test_a_bad_key_is_named_or_left_out(tmp_path, change, message):
    write_tar(tmp_path / "train.tar", change(list(shard(VQA))))
    with pytest.raises(UserError, match=f"{message}.*on_corrupt=skip"):
        opened(tmp_path)
    source = opened(tmp_path, on_corrupt="skip")
    assert [flaw.kind for flaw in source.flaws] == ["record"]
    assert len(source) in (4, 5)
    assert [source.example(i).prefix for i in range(3)] in (
        [row["question"] for row in VQA[:3]],
        [row["question"] for row in (VQA[1], *VQA[2:4])],
    )
    with pytest.raises(UserError, match=message):  # what is left out stays known
        opened(tmp_path)


def test_of_a_damaged_shard_the_others_are_left(directory):
    path = directory / "vqa-train-000001.tar"
    path.write_bytes(path.read_bytes()[:-10000])
    source = opened(directory, on_corrupt="skip")
    assert "file" in [flaw.kind for flaw in source.flaws]
    assert len(source) >= 3
