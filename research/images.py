"""MNIST and Fashion-MNIST through TensorFlow Datasets, without TensorFlow; CIFAR-10 where TFDS has prepared it.

TFDS knows where the original files are and what their sha256 is; its download manager fetches them, or takes them from
a folder, and refuses any other content. They are read straight into arrays: a second, where TFDS's own records take
22 s to write and decode, need TensorFlow in the stock builder, and come in another order. Here the samples stand in the
order of the original files, as in most publications.

The arrays are kept in one file for each data set, so that every later call neither downloads nor imports TFDS.
"""

import contextlib
import gzip
import os
import tempfile
import time
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


class Images(NamedTuple):
    """Grey images, 0 to 255, and their classes, 0 to 9; read-only."""

    images: UInt8[np.ndarray, "image row column"]
    labels: Int[np.ndarray, "image"]


def mnist(split: str, *, source: str | Path | None = None, cache: str | Path | None = None) -> Images:
    """Return the handwritten digits (LeCun et al. 1998): 60 000 of 28 × 28 in split "train", 10 000 in "test".

    On first use the four original files come from the folder `mnist` in `source` (by default the environment variable
    IMAGE_SOURCE); they are downloaded where neither is given. The arrays are kept in the folder `cache` (by default the
    variable IMAGE_CACHE, or else a folder of this project in the user's cache). What is kept but cannot be read is set
    aside under another name, with a warning, and made anew.

    Raises ValueError for another split, FileNotFoundError where the files are neither there nor to be downloaded (it
    says what to do), and TFDS's NonMatchingChecksumError, which names the file, where one is not the original.
    """
    return _load("mnist", split, source, cache)


def fashion_mnist(split: str, *, source: str | Path | None = None, cache: str | Path | None = None) -> Images:
    """Return the articles of clothing (Xiao et al. 2017, arXiv:1708.07747), in the format of MNIST.

    As `mnist` in everything, with `fashion_mnist` for the name of the folder in `source`.
    """
    return _load("fashion_mnist", split, source, cache)


class ColourImages(NamedTuple):
    """Images of three channels (red, green, blue), 0 to 255, and their classes, 0 to 9; read-only."""

    images: UInt8[np.ndarray, "image row column channel"]
    labels: Int[np.ndarray, "image"]


def cifar10(split: str, *, source: str | Path | None = None) -> ColourImages:
    """Return the photographs of CIFAR-10 (Krizhevsky 2009): 50 000 of 32 × 32 in split "train", 10 000 in "test".

    TFDS must have prepared them before, in a format with random access, in the folder `source` (by default TFDS's own);
    that needs TensorFlow once, reading does not. They come in TFDS's order. Nothing is downloaded.
    Raises ValueError for another split, and FileNotFoundError, which says what to do, where they are not there.
    """
    if split not in FILES:
        raise ValueError(f'split is {split!r}: it must be "train" or "test"')
    import tensorflow_datasets as tfds

    try:
        found = tfds.data_source("cifar10", split=split, data_dir=source, download=False)
    except (LookupError, NotImplementedError, ValueError, AssertionError, ImportError, OSError) as failure:
        folder = f", data_dir={str(source)!r}" if source else ""
        raise FileNotFoundError(
            f"cifar10 has not been prepared ({type(failure).__name__}): run, where TensorFlow is installed, "
            f'tfds.builder("cifar10", file_format="array_record"{folder}).download_and_prepare()'
        ) from failure
    rows = [(example["image"], example["label"]) for example in found]
    answer = ColourImages(np.stack([image for image, _ in rows]), np.array([label for _, label in rows], np.int64))
    for array in answer:
        array.setflags(write=False)
    return answer


def _load(name: str, split: str, source: str | Path | None, cache: str | Path | None) -> Images:
    if split not in FILES:
        raise ValueError(f'split is {split!r}: it must be "train" or "test"')
    kept = _cache_folder(cache) / f"{name}.npz"
    found = _read_kept(kept, split)
    if found is None:
        _prepare(name, source or os.environ.get("IMAGE_SOURCE"), kept)
        found = _read_kept(kept, split)
    if found is None:
        raise OSError(f"{kept} cannot be read although it has just been written: is the disk sound and not full?")
    for array in found:
        array.setflags(write=False)
    return found


def _cache_folder(cache: str | Path | None) -> Path:
    chosen = cache or os.environ.get("IMAGE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "implicit-bias-laboratory"


def _read_kept(kept: Path, split: str) -> Images | None:
    if not kept.exists():
        return None
    try:
        # Given a path, np.load leaves the file open where the archive is damaged.
        with kept.open("rb") as stream, np.load(stream) as arrays:
            return Images(arrays[f"{split}_images"], arrays[f"{split}_labels"])
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError) as damage:
        aside = kept.with_name(f"{kept.name}.damaged-{time.time_ns()}")
        # Another process may have set it aside first.
        with contextlib.suppress(FileNotFoundError):
            kept.rename(aside)
        warnings.warn(f"{kept} is damaged ({damage}); it is now {aside.name} and is made anew", stacklevel=4)
        return None


def _prepare(name: str, source: str | Path | None, kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    # Everything unfinished lives in one folder that goes away on any exit; the result arrives by one rename.
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=f".{name}-", ignore_cleanup_errors=True) as workspace:
        files = _verified_files(name, source, Path(workspace))
        arrays: dict[str, Any] = {}
        for split, (images, labels) in FILES.items():
            arrays[f"{split}_images"] = _read_idx(files[images])
            arrays[f"{split}_labels"] = _read_idx(files[labels]).astype(np.int64)
        complete = Path(workspace) / kept.name
        np.savez(complete, **arrays)
        complete.replace(kept)


def _verified_files(name: str, source: str | Path | None, workspace: Path) -> Mapping[str, os.PathLike]:
    import tensorflow_datasets as tfds

    names = [file for pair in FILES.values() for file in pair]
    stock = tfds.builder_cls(name)
    if source is not None:
        folder = Path(source).expanduser() / name
        if missing := [file for file in names if not (folder / file).is_file()]:
            raise FileNotFoundError(f"source has no {', '.join(missing)} in {folder}, where TFDS is to read {name}")
    else:
        folder = None
        _demand_answer(name, stock.URL, names)
    manager = tfds.download.DownloadManager(
        download_dir=workspace,
        manual_dir=folder,
        url_infos=stock.url_infos,
        dataset_name=name,
        force_checksums_validation=True,
    )
    try:
        # One at a time: after a failure no other download may still be writing into the workspace.
        return {file: manager.download(stock.URL + file) for file in names}
    except (OSError, tfds.download.DownloadError) as failure:
        raise _unavailable(name, stock.URL, names, failure) from failure


def _demand_answer(name: str, url: str, names: list[str]) -> None:
    # TFDS tries ten times, for over three minutes, before it admits that there is no network. requests is what it
    # downloads with: the same proxies and certificates.
    import requests

    try:
        requests.head(url + names[0], timeout=10)
    except requests.RequestException as failure:
        raise _unavailable(name, url, names, failure) from failure


def _unavailable(name: str, url: str, names: list[str], failure: Exception) -> FileNotFoundError:
    return FileNotFoundError(
        f"{name} cannot be downloaded from {url} ({type(failure).__name__}): put {', '.join(names)} into a folder "
        f"{name} and name the folder above it in the environment variable IMAGE_SOURCE or the argument source"
    )


def _read_idx(path: os.PathLike) -> UInt8[np.ndarray, "..."]:
    with gzip.open(path) as stream:
        content = stream.read()
    # The fourth byte counts the dimensions; their sizes follow, big-endian; then the bytes themselves.
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
