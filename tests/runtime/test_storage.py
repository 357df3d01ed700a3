"""Ranges of bytes: the same from a disk, from memory and from a web server; failures are named."""

import concurrent.futures
import os

import fsspec
import pytest
from object_store import serve

from vla_jax.core.errors import UserError
from vla_jax.runtime import storage
from vla_jax.runtime.storage import Files

CONTENT = bytes(range(256)) * 4


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    (tmp_path / "b").write_bytes(CONTENT[::-1])
    return tmp_path


@pytest.fixture
def store(folder):
    with serve(folder) as store:
        yield store


@pytest.fixture(params=["local", "memory", "http"])
def directory(request, folder):
    if request.param == "local":
        yield str(folder)
    elif request.param == "http":
        yield request.getfixturevalue("store").url
    else:
        fs = fsspec.filesystem("memory")
        for name in "ab":
            fs.pipe_file(f"memory://set/{name}", (folder / name).read_bytes())
        yield "memory://set"
        fs.rm("/set", recursive=True)


def files(directory, *names, **kwargs):
    return Files([storage.join(directory, name) for name in names], **kwargs)


def test_a_range_is_the_same_bytes_wherever_the_file_lies(directory):
    found = files(directory, "a", "b")
    assert found.read(0, 10, 300) == CONTENT[10:300]
    assert found.read(1, 1000, 1024) == CONTENT[::-1][1000:]
    assert found.read(0, 5, 5) == b""
    assert [found.size(0), found.size(1)] == [1024, 1024]
    assert storage.contents(storage.join(directory, "a")) == CONTENT


def test_a_directory_is_listed_and_asked(directory):
    assert storage.names(directory) == ["a", "b"]
    assert storage.names(directory, "b*") == ["b"]
    assert storage.exists(storage.join(directory, "a"))
    assert not storage.exists(storage.join(directory, "c"))


def test_a_range_beyond_the_end_names_the_shard_and_the_byte(directory):
    with pytest.raises(UserError, match=r"/a, bytes 1000 to 1100: expected 100 bytes, found 24"):
        files(directory, "a").read(0, 1000, 1100)


def test_a_missing_file_is_named_at_once(directory):
    with pytest.raises(UserError, match="/c"):
        files(directory, "c", delay=1000).read(0, 0, 4)
    with pytest.raises(UserError, match="/c"):
        files(directory, "c", delay=1000).size(0)


def test_a_failure_that_passes_is_tried_again(store):
    statuses = [503, 429, None]
    store.status_of = lambda *_: statuses[len(store.gets) - 1]
    assert files(store.url, "a", delay=0.01).read(0, 3, 9) == CONTENT[3:9]
    assert len(store.gets) == 3


def test_a_failure_that_stays_names_path_and_range_after_the_last_attempt(store):
    store.status_of = lambda *_: 500
    with pytest.raises(UserError, match=rf"{store.url}/a, bytes 3 to 9: .*500"):
        files(store.url, "a", attempts=3, delay=0.01).read(0, 3, 9)
    assert len(store.gets) == 3


def test_what_is_forbidden_is_not_tried_again(store):
    store.status_of = lambda *_: 403
    with pytest.raises(UserError, match="403"):
        files(store.url, "a", delay=1000).read(0, 3, 9)
    assert len(store.gets) == 1


def test_a_server_without_ranges_is_refused(store):
    store.ranged = False
    with pytest.raises(UserError, match="range requests"):
        files(store.url, "a").read(0, 3, 9)


@pytest.mark.parametrize(
    ("path", "package"), [("gs://b/x", "gcsfs"), ("s3://b/x", "s3fs"), ("https://b/x", "aiohttp")]
)
def test_a_missing_backend_names_the_package(path, package, monkeypatch):
    def filesystem(scheme):
        raise ImportError(f"no backend for {scheme}")

    monkeypatch.setattr(fsspec, "filesystem", filesystem)
    with pytest.raises(UserError, match=f"{path}.*pip install {package}"):
        Files([path]).read(0, 0, 4)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(UserError, match="zz://b/x"):
        Files(["zz://b/x"]).read(0, 0, 4)


def test_descriptors_are_bounded_over_all_files(tmp_path):
    paths = [tmp_path / str(k) for k in range(600)]
    for k, path in enumerate(paths):
        path.write_bytes(k.to_bytes(2, "little"))
    before = len(os.listdir("/proc/self/fd"))
    halves = Files(paths[:300]), Files(paths[300:])
    for _ in range(2):
        read = [half.read(k, 0, 2) for half in halves for k in range(300)]
        assert read == [path.read_bytes() for path in paths]
    assert len(os.listdir("/proc/self/fd")) - before <= 256


def test_threads_that_push_each_others_descriptors_out_read_the_right_file(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_descriptor", _tiny_cache())
    paths = [tmp_path / str(k) for k in range(16)]
    for k, path in enumerate(paths):
        path.write_bytes(bytes([k]) * 64)
    found = Files(paths)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        reads = list(pool.map(lambda n: found.read(n % 16, 8, 40), range(4000)))
    assert reads == [bytes([n % 16]) * 32 for n in range(4000)]


def _tiny_cache():
    return storage.functools.lru_cache(maxsize=2)(storage._descriptor.__wrapped__)


def test_a_replaced_file_is_read_anew_by_new_files(folder):
    assert files(folder, "a").read(0, 0, 4) == CONTENT[:4]
    (folder / "new").write_bytes(b"replaced")
    os.replace(folder / "new", folder / "a")
    assert files(folder, "a").read(0, 0, 4) == b"repl"
