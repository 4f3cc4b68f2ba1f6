"""Checkpoints: what is stored comes back, damage of any kind is found, nothing is lost or followed."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import stat
import tracemalloc
import zipfile
from collections import OrderedDict, namedtuple

import numpy
import pytest

import fastweights_np as fw
from fastweights_np import associative_lstm, checkpoint, convnet, fast_weights, files, lstm, multilevel, network, optim
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


def info(version: int = checkpoint.VERSION, arrays: object = None, stored: object = None) -> numpy.ndarray:
    """The header of a file, with these structures, or those of empty dicts."""
    text = json.dumps({"version": version, "arrays": arrays or {}, "info": stored or {}})
    return numpy.frombuffer(text.encode(), numpy.uint8)


def itself() -> list:
    """A list that contains itself."""
    endless: list = []
    endless.append(endless)
    return endless


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


def same(got: object, wanted: object) -> bool:
    """Whether two trees are equal in every branch, value and type."""
    if type(got) is not type(wanted):
        return False
    if isinstance(wanted, dict):
        return list(got) == list(wanted) and all(same(got[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list | tuple):
        return len(got) == len(wanted) and all(map(same, got, wanted))
    if isinstance(wanted, numpy.ndarray | numpy.generic):
        return got.dtype == wanted.dtype and got.shape == wanted.shape and got.tobytes() == wanted.tobytes()
    return got == wanted or repr(got) == repr(wanted) == "nan"


TREES = {
    "numbers": {"int": 3, "long": -(2**200), "float": [0.1, -0.0, math.inf, math.nan], "yes": True},
    "complex": [1 - 2j, numpy.complex64(1j)],
    "NumPy's numbers": (numpy.float32(0.1), numpy.float64(0.1), numpy.int8(-3), numpy.bool_(True), numpy.array(0.5)),
    "nothing": {"None": None, "dict": {}, "list": [], "tuple": (), "text": ""},
    "text": "λ \0 \ud800 /", "array": numpy.arange(3), "keys": {"": 1, "a/b": numpy.ones(1), "\0": [{}]},
    "one and several": [(1,), [2], ((3,), [[]])], "like a structure": [["array"], ["list", 1], {"tuple": ["number"]}],
    "states": [
        fast_weights.State(numpy.ones((2, 3)), numpy.zeros((2, 3, 3))), lstm.State(numpy.ones(2), None),
        associative_lstm.State(1, 2),
    ],
    "parts": (network.TokenEncoder(4), convnet.Convolution(2, 3), multilevel.quadrants(2)),
    "random state": numpy.random.MT19937(0).state,
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_a_tree_comes_back_as_it_was_among_arrays_and_in_info(name, tmp_path):
    checkpoint.save(tmp_path / "c.npz", TREES[name], {"tree": TREES[name]})
    arrays, info = checkpoint.load(tmp_path / "c.npz")
    assert same(arrays, TREES[name]), arrays
    assert same(info, {"tree": TREES[name]}), info


def test_info_may_be_left_out(tmp_path):
    checkpoint.save(tmp_path / "c.npz", [1])
    assert checkpoint.load(tmp_path / "c.npz") == ([1], {})


def test_a_failed_save_leaves_the_checkpoint_before(tmp_path):
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, {"a": numpy.ones(1)}, {"update": 1})
    for arrays, info in (({"a": numpy.ones(1)}, {"update": object()}), ({"a": [object()]}, {})):
        with pytest.raises(TypeError):
            checkpoint.save(path, arrays, info)
    assert checkpoint.load(path)[1] == {"update": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.npz"]


@pytest.mark.parametrize(
    ("arrays", "error", "words"),
    [
        ({"a/b": numpy.ones(1), "a": {"b": numpy.zeros(1)}}, ValueError, "arrays/a/b: expected one array of this path"),
        ({"a": [{3: 1, "3": 2}]}, ValueError, "arrays/a/0: expected keys that are text, got 3; rename it"),
        ({None: 1}, ValueError, "arrays: expected keys that are text, got None"),
        ({numpy.str_("a"): 1}, ValueError, "arrays: expected keys that are text, got np.str_"),
        ({"a": (1, OrderedDict())}, TypeError, "arrays/a/1: expected an array, .*, got collections.OrderedDict"),
        ([namedtuple("Pair", "a b")(1, 2)], TypeError, "arrays/0: expected .*, got .*Pair; convert it, or leave"),
        ({"a": fw.Workspace()}, TypeError, "got fastweights_np.workspace.Workspace"),
        (fw.network.Network, TypeError, "arrays: expected .*, got builtins.type"),
        (b"bytes", TypeError, "got builtins.bytes"), ({"a": {1}}, TypeError, "got builtins.set"),
        (numpy.str_("text"), TypeError, "arrays: expected an array of numbers, got <U4"),
        (itself(), ValueError, r"arrays/0/0/.*\.\.\.: expected at most 100 levels, got more; does it contain itself"),
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


@pytest.mark.parametrize("info", [[1], "text", 3])
def test_info_is_a_dict_and_its_place_is_named(info, tmp_path):
    with pytest.raises(TypeError, match=f"info: expected a dict, got {type(info).__name__}"):
        checkpoint.save(tmp_path / "c.npz", {}, info)
    with pytest.raises(TypeError, match="info/loss/0: expected an array, a number"):
        checkpoint.save(tmp_path / "c.npz", {}, {"loss": [object()]})
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
        npz(info=info(2), **{"arrays/a": numpy.ones(1), "arrays/a/b": numpy.ones(1)}),
        npz(info=info(), **{"arrays/a": numpy.ones(1)}), npz(info=info(arrays=["array"])),
        npz(info=info(stored="text")),
        npz(info=info(2, stored=[1])),
        npz(info=info(arrays=["irnn.State", {}])), npz(info=info(arrays=["irnn.State"])), npz(info=info(arrays=[1])),
        npz(info=info(arrays=["network.TokenEncoder", {"vocabulary": -1}])),
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


def test_a_file_of_version_2_is_still_loaded(tmp_path):
    members = {"arrays/layer/W": numpy.ones(2), "arrays/b": numpy.array(3)}
    header = {"version": 2, "info": {"settings": {"a/b": [1, {"c": None}]}, "label": ["array"]}}
    text = numpy.frombuffer(json.dumps(header).encode(), numpy.uint8)
    (tmp_path / "c.npz").write_bytes(signed(npz(info=text, **members)))
    arrays, found = checkpoint.load(tmp_path / "c.npz")
    assert same(arrays, {"layer": {"W": numpy.ones(2)}, "b": numpy.array(3)})
    assert found == header["info"]
    (tmp_path / "c.npz").write_bytes(signed(npz(info=text)))
    assert checkpoint.load(tmp_path / "c.npz")[0] == {}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (info(4), "expected version 2 to 3, got 4"),
        (info(arrays=["irnn.NewState", {}]), "arrays: expected a class of this release, got irnn.NewState"),
        (info(arrays={"a": ["os.system", {}]}), "arrays/a: expected a class of this release, got os.system"),
        (info(arrays=["checkpoint.Path", {}]), "arrays: expected a class of this release, got checkpoint.Path"),
        (info(arrays=["network.numpy", {}]), "arrays: expected a class of this release, got network.numpy"),
        (info(arrays=["workspace.Workspace", {}]), "arrays: expected a class of this release, got workspace.Workspace"),
        (
            info(arrays=["network.TokenEncoder", {"vocabulary": 3, "depth": 1}]),
            "arrays: expected the settings of network.TokenEncoder, got depth, too",
        ),
    ],
)  # fmt: skip
def test_what_another_release_wrote_is_refused_and_nothing_else_is_called(header, words, tmp_path):
    (tmp_path / "c.npz").write_bytes(signed(npz(info=header)))
    with pytest.raises(CheckpointError, match=rf"c\.npz: {words}.*; load it with the release that wrote it"):
        checkpoint.load(tmp_path / "c.npz")


def test_another_kind_of_file_is_named_so_whatever_its_length(tmp_path):
    for content in (b"{}", b"# A readme\n" * 99, b"PK, but no archive"):
        (tmp_path / "c.npz").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"not a checkpoint \(no \.npz file\); .* the output folder of a run"):
            checkpoint.load(tmp_path / "c.npz")


def test_no_file_and_an_old_one_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a file that save"):
        checkpoint.load(tmp_path / "none.npz")
    numpy.savez(tmp_path / "old.npz", info=info(1))
    with pytest.raises(CheckpointError, match="or of a format older than 2"):
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
