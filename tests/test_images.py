"""Made files in the original format go through TFDS into arrays; nothing here needs a network or the real files."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import subprocess
import sys
import threading

import numpy as np
import pytest

from research import images

NAMES = ("mnist", "fashion_mnist")
LOADERS = {name: getattr(images, name) for name in NAMES}
UNREACHABLE = "http://127.0.0.1:9/"


def made(name, split):
    """Seven train and three test images of 5 × 4, which differ between names and splits."""
    generator = np.random.default_rng([NAMES.index(name), split == "test"])
    count = {"train": 7, "test": 3}[split]
    return generator.integers(0, 256, (count, 5, 4), np.uint8), generator.integers(0, 10, count, np.uint8)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


def publish(monkeypatch, source, url):
    """Let TFDS expect the files in `source`, at `url`."""
    import tensorflow_datasets as tfds

    for name in NAMES:
        stock = tfds.builder_cls(name)
        some_info = next(iter(stock.url_infos.values()))
        contents = {path.name: path.read_bytes() for path in (source / name).iterdir()}
        infos = {
            f"{url}{name}/{file}": dataclasses.replace(
                some_info,
                size=type(some_info.size)(len(content)),
                checksum=hashlib.sha256(content).hexdigest(),
                filename=file,
            )
            for file, content in contents.items()
        }
        monkeypatch.setattr(stock, "URL", f"{url}{name}/")
        monkeypatch.setattr(stock, "url_infos", infos)


@pytest.fixture
def source(tmp_path, monkeypatch):
    folder = tmp_path / "source"
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        for split, files in images.FILES.items():
            for file, array in zip(files, made(name, split), strict=True):
                write_idx(folder / name / file, array)
    for variable in ("IMAGE_SOURCE", "IMAGE_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    publish(monkeypatch, folder, UNREACHABLE)
    return folder


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "deep" / "cache"


def check(result, name, split):
    for array, expected in zip(result, made(name, split), strict=True):
        np.testing.assert_array_equal(array, expected)
        assert not array.flags.writeable
    assert result.images.dtype == np.uint8
    assert result.labels.dtype == np.int64


@pytest.mark.parametrize("name", NAMES)
def test_content_and_order_survive_and_the_source_is_read_once(source, cache, name):
    check(LOADERS[name]("train", source=source, cache=cache), name, "train")
    check(LOADERS[name]("test", cache=cache), name, "test")
    check(LOADERS[name]("train", source="/nowhere", cache=str(cache)), name, "train")
    assert [path.name for path in cache.iterdir()] == [f"{name}.npz"]


def test_folders_may_be_named_by_the_environment(source, cache, monkeypatch):
    monkeypatch.setenv("IMAGE_SOURCE", str(source))
    monkeypatch.setenv("IMAGE_CACHE", str(cache))
    check(images.mnist("test"), "mnist", "test")
    check(images.fashion_mnist("test"), "fashion_mnist", "test")
    assert {path.name for path in cache.iterdir()} == {"mnist.npz", "fashion_mnist.npz"}


def test_without_a_name_the_arrays_are_kept_in_the_users_cache(source, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    images.mnist("test", source=source)
    assert (tmp_path / "users" / "implicit-bias-laboratory" / "mnist.npz").exists()


def test_what_is_kept_is_read_without_tfds(source, cache):
    images.mnist("test", source=source, cache=cache)
    program = (
        f"import sys; from research import images; images.mnist('test', cache={str(cache)!r});"
        "sys.exit('tensorflow_datasets' in sys.modules or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_file_with_the_wrong_sha256_is_refused_and_named(source, cache):
    wrong = source / "mnist" / "t10k-labels-idx1-ubyte.gz"
    original = wrong.read_bytes()
    write_idx(wrong, np.zeros(3, np.uint8))
    with pytest.raises(Exception, match="wrong checksum") as refusal:
        images.mnist("train", source=source, cache=cache)
    assert type(refusal.value).__name__ == "NonMatchingChecksumError"
    assert str(wrong) in str(refusal.value)
    assert list(cache.iterdir()) == []
    wrong.write_bytes(original)
    check(images.mnist("train", source=source, cache=cache), "mnist", "train")


def test_the_files_of_one_set_are_refused_as_the_other(source, cache):
    (source / "mnist").rename(source / "kept")
    (source / "fashion_mnist").rename(source / "mnist")
    with pytest.raises(Exception, match="wrong checksum"):
        images.mnist("train", source=source, cache=cache)


@pytest.mark.parametrize("name", NAMES)
def test_offline_and_without_files_one_sentence_says_what_to_do(source, cache, name):
    with pytest.raises(FileNotFoundError) as failure:
        LOADERS[name]("train", cache=cache)
    sentence = str(failure.value)
    assert sentence.startswith(f"{name} cannot be downloaded from {UNREACHABLE}")
    assert "\n" not in sentence
    for expected in ("IMAGE_SOURCE", "source", *images.FILES["train"], *images.FILES["test"]):
        assert expected in sentence
    assert list(cache.iterdir()) == []
    check(LOADERS[name]("train", source=source, cache=cache), name, "train")


def test_files_missing_from_the_source_are_named(source, cache):
    (source / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"source has no train-labels-idx1-ubyte\.gz in .*mnist"):
        images.mnist("train", source=source, cache=cache)


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "overwritten": lambda content: b"not an archive at all",
    "one bit": lambda content: content[:250] + bytes([content[250] ^ 1]) + content[251:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_set_aside_and_made_anew(source, cache, damage):
    images.mnist("train", source=source, cache=cache)
    kept = cache / "mnist.npz"
    damaged = damage(kept.read_bytes())
    kept.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"mnist\.npz is damaged"):
        again = images.mnist("train", source=source, cache=cache)
    check(again, "mnist", "train")
    (aside,) = cache.glob("mnist.npz.damaged-*")
    assert aside.read_bytes() == damaged
    check(images.mnist("test", cache=cache), "mnist", "test")


def test_a_preparation_that_breaks_off_leaves_nothing(source, cache, monkeypatch):
    def breaks_off(path, **arrays):
        path.write_bytes(b"half")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", breaks_off)
        with pytest.raises(OSError, match="no space left"):
            images.mnist("train", source=source, cache=cache)
    assert list(cache.iterdir()) == []
    check(images.mnist("train", source=source, cache=cache), "mnist", "train")


@pytest.fixture
def server(source):
    """Serves the made files on this machine; yields its address and the paths that were asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append((self.command, self.path))

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=source))
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}/", asked
    running.shutdown()
    thread.join()
    running.server_close()


def test_files_are_downloaded_once_and_checked(source, cache, server, monkeypatch):
    url, asked = server
    publish(monkeypatch, source, url)
    check(images.mnist("train", cache=cache), "mnist", "train")
    assert sorted(path for command, path in asked if command == "GET") == sorted(
        f"/mnist/{file}" for pair in images.FILES.values() for file in pair
    )
    requests_before = len(asked)
    check(images.mnist("test", cache=cache), "mnist", "test")
    assert len(asked) == requests_before
    write_idx(source / "fashion_mnist" / "t10k-labels-idx1-ubyte.gz", np.zeros(3, np.uint8))
    with pytest.raises(Exception, match="wrong checksum"):
        images.fashion_mnist("train", cache=cache)
    assert [path.name for path in cache.iterdir()] == ["mnist.npz"]


def test_a_file_without_a_registered_checksum_is_refused(source, cache, server, monkeypatch):
    import tensorflow_datasets as tfds

    publish(monkeypatch, source, server[0])
    monkeypatch.setattr(tfds.builder_cls("mnist"), "url_infos", {})
    monkeypatch.setattr(tfds.builder_cls("mnist"), "URL", f"{server[0]}unregistered/")
    (source / "mnist").rename(source / "unregistered")
    with pytest.raises(ValueError, match="Missing checksums url"):
        images.mnist("train", cache=cache)


def test_a_file_gone_from_the_server_gives_the_same_sentence(source, cache, server, monkeypatch):
    publish(monkeypatch, source, server[0])
    (source / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="IMAGE_SOURCE"):
        images.mnist("train", cache=cache)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_tfds_registers_a_checksum_for_each_of_the_four_files(name):
    import tensorflow_datasets as tfds

    stock = tfds.builder_cls(name)
    expected = {stock.URL + file: file for pair in images.FILES.values() for file in pair}
    assert {url: info.filename for url, info in stock.url_infos.items()} == expected
    assert all(len(info.checksum) == 64 for info in stock.url_infos.values())


def test_another_split_is_refused(cache):
    with pytest.raises(ValueError, match='split is \'validation\': it must be "train" or "test"'):
        images.mnist("validation", cache=cache)


def test_prepared_photographs_come_as_arrays(monkeypatch):
    import tensorflow_datasets as tfds

    drawn = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    asked = []

    def prepared(name, **options):
        asked.append((name, options))
        return [{"image": image, "label": number} for number, image in enumerate(drawn)]

    monkeypatch.setattr(tfds, "data_source", prepared)
    found = images.cifar10("test", source="somewhere")
    np.testing.assert_array_equal(found.images, drawn)
    assert found.labels.tolist() == [0, 1, 2]
    assert not found.images.flags.writeable
    assert asked == [("cifar10", {"split": "test", "data_dir": "somewhere", "download": False})]


def test_photographs_that_are_not_prepared_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has not been prepared.*array_record.*download_and_prepare"):
        images.cifar10("train", source=tmp_path)
    with pytest.raises(ValueError, match="split is 'validation'"):
        images.cifar10("validation")
