"""Checkpoints: what is stored comes back, damage of any kind is found, nothing is lost or followed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tracemalloc
import zipfile

import numpy
import pytest

from fastweights_np import checkpoint, files, optim
from fastweights_np.checkpoint import CheckpointError


def tree(seed: int, dtype: str = "float64"):
    rng = numpy.random.default_rng(seed)
    return {"layer": {"W": rng.standard_normal((2, 3)).astype(dtype)}, "b": rng.standard_normal(4).astype(dtype)}


def signed(content: bytes) -> bytes:
    """The content of an .npz file with the digest that `save` would give it."""
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.comment = bytes(checkpoint.DIGEST_SIZE)
    before = stream.getvalue()[: -checkpoint.DIGEST_SIZE]
    return before + hashlib.sha256(before).hexdigest().encode()


def npz(**members: object) -> bytes:
    """An .npz file of arrays, or of members as raw bytes, uncompressed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, member in members.items():
            if isinstance(member, bytes):
                archive.writestr(f"{name}.npy", member)
            else:
                with archive.open(f"{name}.npy", "w") as file:
                    numpy.lib.format.write_array(file, numpy.asanyarray(member))
    return stream.getvalue()


def info(version: int = checkpoint.VERSION) -> numpy.ndarray:
    return numpy.frombuffer(json.dumps({"version": version, "info": {}}).encode(), numpy.uint8)


def test_arrays_and_info_come_back(tmp_path):
    path = tmp_path / "checkpoint.npz"
    state = numpy.random.default_rng(0).bit_generator.state
    kinds = {
        "0-d": numpy.array(3), "empty": numpy.zeros((0, 3)), "bool": numpy.array([True]),
        "big-endian": numpy.arange(3.0).astype(">f4"),
        "column order": numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3)), "strided": numpy.arange(9)[::2],
    }  # fmt: skip
    checkpoint.save(path, {"params": tree(0, "float32"), "kinds": kinds}, {"update": 3, "random_state": state})
    arrays, found = checkpoint.load(path)
    numpy.testing.assert_array_equal(arrays["params"]["layer"]["W"], tree(0, "float32")["layer"]["W"])
    for name, array in kinds.items():
        numpy.testing.assert_array_equal(arrays["kinds"][name], array)
        assert arrays["kinds"][name].dtype == array.dtype, name
        arrays["kinds"][name][...] = array  # it can be written to
    assert found == {"update": 3, "random_state": state}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.npz"]
    with numpy.load(path, allow_pickle=False) as file:
        numpy.testing.assert_array_equal(file["arrays/params/b"], tree(0, "float32")["b"])


@pytest.mark.parametrize("kind", [optim.Adam, optim.RMSProp])
def test_an_optimizers_state_can_be_saved_as_it_is(kind, tmp_path):
    params = tree(0)
    optimizer, again = kind(params), kind(params)
    optimizer.step(params, tree(1), 0.1)
    checkpoint.save(tmp_path / "c.npz", {"optimizer": optimizer.state()}, {})
    again.load_state(checkpoint.load(tmp_path / "c.npz")[0]["optimizer"])
    assert again.updates == 1
    for name, moment in again.state().items():
        numpy.testing.assert_array_equal(moment, optimizer.state()[name])


def test_a_failed_save_leaves_the_checkpoint_before(tmp_path):
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, {"a": numpy.ones(1)}, {"update": 1})
    for arrays, info in (({"a": numpy.ones(1)}, {"update": object()}), ({"a": [1.0]}, {})):
        with pytest.raises(TypeError):
            checkpoint.save(path, arrays, info)
    assert checkpoint.load(path)[1] == {"update": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.npz"]


@pytest.mark.parametrize(
    ("arrays", "error", "words"),
    [
        ({"a/b": numpy.ones(1), "a": {"b": numpy.zeros(1)}}, ValueError, "arrays/'a/b': expected keys that are text"),
        ({3: numpy.ones(1)}, ValueError, "arrays/3: expected keys that are text"),
        ({"a": {"b": {}}}, ValueError, "arrays/a/b: expected arrays in this dict, got an empty one"),
        ({"a": None}, TypeError, "arrays/a: expected a NumPy or CuPy array, got NoneType"),
        ({"a": 0.5}, TypeError, "arrays/a: expected a NumPy or CuPy array, got float"),
        ({"a": numpy.array(["ab"])}, TypeError, "arrays/a: expected an array of numbers, got <U2"),
        ({"a": numpy.zeros(2, [("η", "f4")])}, TypeError, "arrays/a: expected an array of numbers"),
        ({"a\0b": numpy.ones(1)}, ValueError, "arrays/a.*: expected keys of plain text"),
        ({"\ud800": numpy.ones(1)}, ValueError, "expected keys of plain text"),
        ({"k" * 70_000: numpy.ones(1)}, ValueError, "expected keys of plain text"),
        ({"a": numpy.array([None])}, TypeError, "arrays/a: expected an array of numbers, got object"),
        ({"a": numpy.ma.masked_array([1.0], [True])}, TypeError, "arrays/a: expected a plain array, got a masked one"),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_refused(arrays, error, words, tmp_path):
    with pytest.raises(error, match=words):
        checkpoint.save(tmp_path / "c.npz", arrays, {})
    assert not list(tmp_path.iterdir())


def test_info_comes_back_with_its_keys_or_is_refused(tmp_path):
    with pytest.raises(TypeError, match="info: expected keys that are text, got 1"):
        checkpoint.save(tmp_path / "c.npz", {}, {"curve": [{1: "a", "1": "b"}]})
    with pytest.raises(TypeError, match="info: expected keys that are text, got None"):
        checkpoint.save(tmp_path / "c.npz", {}, {"curve": {None: 1}})
    with pytest.raises(TypeError, match=r"info: expected numbers, text, lists and dicts of Python: .* float32"):
        checkpoint.save(tmp_path / "c.npz", {}, {"loss": numpy.float32(1)})
    for info in ([1], "text", None):
        with pytest.raises(TypeError, match=f"info: expected a dict, got {type(info).__name__}"):
            checkpoint.save(tmp_path / "c.npz", {}, info)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(CheckpointError, match="expected a regular file, got a folder or a device"):
            checkpoint.load(path)


def test_every_flipped_bit_and_every_cut_is_found(tmp_path):
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, {"W": numpy.ones((2, 1), "float32")}, {"update": 1})
    content = path.read_bytes()
    for place in range(len(content)):
        for damaged in (
            content[:place],
            content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :],
        ):
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r"checkpoint\.npz: .*its SHA-256 does not match"):
                checkpoint.load(path)
    path.write_bytes(content + b"more")
    with pytest.raises(CheckpointError):
        checkpoint.load(path)


LYING = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }".ljust(117) + b"\n"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"not a checkpoint", npz(), npz(a=numpy.ones(1)), npz(info=numpy.frombuffer(b"{}", numpy.uint8)),
        npz(info=b""), npz(info=info(), arrays=b"\x93NUMPY\x09\x00"), npz(info=info(), a=LYING % 10**12 + bytes(8)),
        npz(info=info(), a=LYING % 0 + bytes(8)), npz(info=info(), a=LYING.replace(b"%d", b"-1") + bytes(8)),
        npz(info=info(), a=LYING.replace(b"%d,", b"(" * 40 + b")" * 40) + bytes(8)),
        npz(info=info(), a=numpy.lib.format.magic(1, 0) + b"\xff\xff"),
        npz(info=info(), **{"arrays/a": numpy.ones(1), "arrays/a/b": numpy.ones(1)}),
    ],
)  # fmt: skip
def test_what_save_did_not_write_is_refused_even_with_a_digest(content, tmp_path):
    (tmp_path / "c.npz").write_bytes(signed(content) if content[:2] == b"PK" else content)
    with pytest.raises(CheckpointError, match=r"c\.npz: expected a file that save\(\) wrote"):
        checkpoint.load(tmp_path / "c.npz")


def test_sizes_that_a_file_claims_take_no_memory(tmp_path):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("info.npy", bytes(2**26))
    for content in (bomb.getvalue(), npz(info=info(), a=LYING % 2**33 + bytes(8))):
        (tmp_path / "c.npz").write_bytes(signed(content))
        tracemalloc.start()
        with pytest.raises(CheckpointError):
            checkpoint.load(tmp_path / "c.npz")
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()


def test_a_checkpoint_holds_no_pickle(tmp_path):
    stream = io.BytesIO()
    numpy.savez(stream, info=info(), a=numpy.array([None]))
    (tmp_path / "c.npz").write_bytes(signed(stream.getvalue()))
    with pytest.raises(CheckpointError, match="expected an array of numbers"):
        checkpoint.load(tmp_path / "c.npz")


def test_another_version_and_no_file_are_named(tmp_path):
    (tmp_path / "c.npz").write_bytes(signed(npz(info=info(3))))
    with pytest.raises(CheckpointError, match="expected version 2, got 3; load it with the release"):
        checkpoint.load(tmp_path / "c.npz")
    with pytest.raises(FileNotFoundError, match="expected a file that save"):
        checkpoint.load(tmp_path / "none.npz")
    numpy.savez(tmp_path / "old.npz", info=info(1))
    with pytest.raises(CheckpointError, match="or older than version 2"):
        checkpoint.load(tmp_path / "old.npz")


# ------------------------------------------------------------------------------------------------- files, whole or not


def test_a_link_at_a_temporary_name_is_not_followed_and_two_writers_share_no_name(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr(files.os, "urandom", bytes)  # the name is known
    (tmp_path / f"c.npz{files.UNFINISHED}00000000").symlink_to(victim)
    with pytest.raises(FileExistsError):
        checkpoint.save(tmp_path / "c.npz", {"a": numpy.ones(1)}, {})
    assert victim.read_text() == "mine"
    monkeypatch.undo()
    with files.whole(tmp_path / "t") as one, files.whole(tmp_path / "t") as two:
        one.write(b"one")
        two.write(b"two")
    assert (tmp_path / "t").read_bytes() == b"one", "the last to end"


def test_an_error_leaves_the_old_file_alone_and_unfinished_ones_can_be_removed(tmp_path):
    path = tmp_path / "t"
    files.write_text(path, "before η")
    assert path.read_text(encoding="utf-8") == "before η"
    mode = stat.S_IMODE(path.stat().st_mode)
    with pytest.raises(TypeError), files.whole(path) as file:
        file.write(b"half" + None)
    assert path.read_bytes().decode() == "before η"
    assert [each.name for each in tmp_path.iterdir()] == ["t"]
    (tmp_path / f"t{files.UNFINISHED}0123").write_text("left by a killed writer")
    (tmp_path / "u").write_text("")
    assert mode == stat.S_IMODE((tmp_path / "u").stat().st_mode), "as any new file"
    files.remove_unfinished(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["t", "u"]
