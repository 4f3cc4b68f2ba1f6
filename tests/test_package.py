"""The package as a whole: what an import loads, which way imports run, devices, and what is public."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy
import pytest

import fastweights_np as fw
from fastweights_np import backend, network, trees
from tasks.__main__ import main

ROOT = Path(fw.__file__).parent.parent
# each may import what stands before it; the audit, the plain layers and the tests stand outside
ORDER = [
    {"trees"},
    {"backend"},
    {"checks", "workspace", "shared_arrays", "threads"},
    {"ops", "memory", "features", "chunks", "distributed"},
    {"spans", "memory_gradient", "inference", "key_value_memory"},
    {"recurrent"},
    {
        "inner_loop",
        "stepper",
        "projections",
        "associative_lstm_cell",
        "rms_norm",
        "gated_mlp",
        "attention",
        "targets",
    },
    {"stream"},
    {"fast_weights_stepper"},
    {"fast_weights_inference"},
    {"fast_weights", "irnn", "lstm", "associative_lstm", "fast_weight_programmer", "in_place_ttt"},
    {"multilevel", "convnet"},
    {"files", "roles"},
    {"structures"},
    {"optim", "checkpoint"},
    {"saving", "parts", "learned"},
    {"network", "batch_parts"},
    {"actor_critic", "context_policy", "policy_gradient", "transformer"},
]


def imported_by(path: Path) -> set[str]:
    """The package's own modules that a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("fastweights_np")):
            module = (node.module or "").removeprefix("fastweights_np").strip(".")
            names |= {module.split(".")[0]} if module else {alias.name for alias in node.names}
    return names


def test_imports_run_one_way():
    below: set[str] = set()
    for level in ORDER:
        for module in level:
            foreign = imported_by(ROOT / "fastweights_np" / f"{module}.py") - below
            assert not foreign, f"{module}.py imports {foreign}, which do not stand below it"
        below |= level
    modules = {path.stem for path in (ROOT / "fastweights_np").glob("*.py")} - {"__init__"}
    assert modules == below, "a new module has to be given its place in ORDER"


def test_the_plain_files_import_nothing_from_the_rest_of_the_package():
    plain = {path.stem: path for path in (ROOT / "fastweights_np" / "plain").glob("*.py")}
    others = {"__init__", "ops", "features", "losses", "optim", "convnet", "fast_weight_programmer"}
    others |= {"rms_norm", "gated_mlp", "attention", "in_place_ttt", "transformer", "context_policy"}
    assert set(plain) == others | set(network.LAYERS)
    for path in plain.values():
        tree = ast.parse(path.read_text())
        assert imported_by(path) <= set(plain), path.name
        assert all(node.level < 2 for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), path.name
        assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(tree)), path.name


def test_plain_and_fast_files_cite_every_number_of_the_derivation_and_no_other():
    def cited(paths):
        lines = [line for path in paths for line in path.read_text().splitlines() if "#" in line]
        return set(re.findall(r"\(([A-Z]\d+)\)", "\n".join(line.partition("#")[2] for line in lines)))

    package = ROOT / "fastweights_np"
    derived = set(re.findall(r"\*\*\(([A-Z]\d+)\)", (package / "DERIVATION.md").read_text()))
    assert len(derived) > 30
    only_fast = {"S1", "S2"}  # for the plain layers, a document is a sequence of its own
    assert cited((package / "plain").glob("*.py")) == derived - only_fast
    assert cited(package.glob("*.py")) == derived


def test_the_library_imports_no_task_and_only_backend_names_cupy():
    for path in (ROOT / "fastweights_np").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                assert module.split(".")[0] not in ("tasks", "bench")
                assert path.name == "backend.py" or module.split(".")[0] not in ("cupy", "cupyx")


def test_tasks_import_no_bench_except_the_stored_runs_for_a_report():
    for path in (ROOT / "tasks").rglob("*.py"):
        tree = ast.parse(path.read_text())
        modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        named = {each for each in modules | texts if isinstance(each, str) and re.fullmatch(r"bench(\.\w+)*", each)}
        front_door = path == ROOT / "tasks" / "__main__.py"
        assert named == ({"bench.references"} if front_door else set()), path


def test_text_is_read_and_written_as_utf_8_whatever_the_locale_is():
    folders, wrong = ("fastweights_np", "tasks", "bench", "examples"), []
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                arguments = len(node.args) + sum(word.arg == "encoding" for word in node.keywords)
                if arguments < {"read_text": 1, "write_text": 2}.get(node.func.attr, 0):
                    wrong.append(f"{path}, line {node.lineno}")
    assert not wrong


def test_import_is_light():
    """Beyond NumPy, importing the package costs next to nothing and loads no library that a call does not need."""
    program = (
        "import sys, numpy; before = set(sys.modules); import fastweights_np; print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "fastweights_np.fast_weights" in loaded
    heavy = {"cupy", "cupyx", "scipy", "autograd", "matplotlib", "tqdm", "tyro", "threadpoolctl"}
    assert not heavy & {name.split(".")[0] for name in loaded}
    others = [name for name in loaded if not name.startswith("fastweights_np")]
    assert len(others) < 35, f"importing the package pulls in {others}"


def test_to_host_and_to_device_cpu_keep_trees():
    Pair = namedtuple("Pair", "h A")
    tree = {"layer": {"W": numpy.ones(2)}, "state": Pair(numpy.zeros(1), None), "more": [numpy.ones(1)]}
    for copy in (fw.to_host(tree), fw.to_device(tree, "cpu")):
        assert type(copy["state"]) is Pair
        assert copy["state"].A is None
        numpy.testing.assert_array_equal(copy["layer"]["W"], tree["layer"]["W"])


def test_unknown_device_is_refused():
    with pytest.raises(ValueError, match='device: expected "cpu" or "cuda", got \'gpu\''):
        fw.to_device({}, "gpu")


def test_cuda_without_cupy_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    with pytest.raises(RuntimeError, match=r"needs CuPy.*pip install cupy-cuda12x"):
        fw.to_device({"W": numpy.ones(1)}, "cuda")


@pytest.mark.parametrize(
    ("version", "driver", "devices", "message"),
    [
        ("14.0.0", 0, 0, r"finds no NVIDIA driver; install one, or use device \"cpu\""),
        ("14.0.0", 11080, "cudaErrorInsufficientDriver", r"driver is for CUDA 11.8, .*update the driver, or"),
        ("14.0.0", 13000, 0, r"finds no GPU on this machine"),
        ("12.3.0", 13000, 1, r"needs CuPy 13.4 or newer, got 12.3.0; install the CuPy"),
    ],
)
def test_cuda_that_cannot_be_used_says_which_and_what_to_do(version, driver, devices, message, monkeypatch, capsys):
    def count() -> int:
        if isinstance(devices, str):
            raise OSError(devices)
        return devices

    runtime = SimpleNamespace(getDeviceCount=count, driverGetVersion=lambda: driver)
    cupy = SimpleNamespace(__version__=version, cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(RuntimeError, match=message):
        fw.to_device({"W": numpy.ones(1)}, "cuda")
    assert main(["retrieval", "--device", "cuda"]) == 2
    said = capsys.readouterr().err
    assert said.startswith('tasks: device "cuda"')
    assert said.count("\n") == 1, "one sentence"


def test_without_memory_the_error_names_the_sizes_and_what_to_lower(monkeypatch):
    def no_room(*_: object) -> None:
        raise MemoryError("5 GiB wanted")

    params = fw.irnn.init(numpy.random.default_rng(0), 3, 4)
    monkeypatch.setattr(fw.irnn, "Buffers", no_room)
    with pytest.raises(MemoryError, match=r"no room .* 7 steps of 2 sequences and 4 units: 5 GiB wanted; lower"):
        fw.irnn.forward(params, numpy.zeros((7, 2, 3), "float32"))


def test_mixed_places_are_refused(monkeypatch):
    class Elsewhere:
        """Stands for an array that CuPy owns."""

        def __init__(self, device: int = 0) -> None:
            self.device = SimpleNamespace(id=device)

    class FakeCupy:
        ndarray = Elsewhere

    monkeypatch.setitem(sys.modules, "cupy", FakeCupy)
    with pytest.raises(TypeError, match=r"W is on the host \(NumPy\) and x on the GPU 0 \(CuPy\).*to_device"):
        backend.array_module(W=numpy.ones(1), x=Elsewhere())
    with pytest.raises(TypeError, match=r"W is on the GPU 0 \(CuPy\) and x on the GPU 1"):
        backend.array_module(W=Elsewhere(), x=Elsewhere(1))
    assert backend.array_module(x=Elsewhere()) is FakeCupy


def test_flatten_and_unflatten_invert_each_other():
    tree = {"encoder": {"table": 1}, "layer": {"W": 2, "C": 3}}
    assert trees.flatten(tree) == {"encoder/table": 1, "layer/W": 2, "layer/C": 3}
    assert trees.unflatten(trees.flatten(tree)) == tree


def test_unknown_layer_is_refused():
    with pytest.raises(
        ValueError, match="layer: expected one of associative_lstm, fast_weights, irnn, lstm, multilevel; got 'gru'"
    ):
        network.Network(network.TokenEncoder(3), network.Classifier(2), 4, layer="gru")
    with pytest.raises(ValueError, match="hidden_size: expected at least 1, got 0"):
        network.Network(network.TokenEncoder(3), network.Classifier(2), 0)


def test_every_layer_has_the_five_functions():
    for layer in network.LAYERS.values():
        for function in ("init", "forward", "backward", "initial_state", "step"):
            assert (getattr(layer, function).__doc__ or "").strip()


def test_a_module_that_moved_into_a_room_can_be_imported_by_its_former_name():
    program = (
        "import warnings; warnings.simplefilter('always'); from tasks import expressions; "
        "import tasks.catch_environment, tasks.vision.expressions as new; assert expressions is new; "
        "assert new.__spec__.name == new.__name__ == 'tasks.vision.expressions'; import tasks.nothing"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    for name, new in (("expressions", "vision.expressions"), ("catch_environment", "games.catch_environment")):
        assert f"DeprecationWarning: tasks.{name}: this module is now called tasks.{new}" in done.stderr
    assert done.stderr.endswith("No module named 'tasks.nothing'\n")


def test_type_checkers_see_a_wrong_array_and_a_wrong_layer(tmp_path):
    (tmp_path / "script.py").write_text(
        "import numpy as np\nimport fastweights_np as fw\n\n"
        "params = fw.fast_weights.init(np.random.default_rng(0), 3, 4)\n"
        "h, cache = fw.fast_weights.forward(params, np.ones((2, 1, 3)))\n"
        'fw.fast_weights.forward(params, "no array")\n'
        'fw.network.Network(fw.network.TokenEncoder(3), fw.network.Classifier(2), 4, layer="gru")\n'
    )
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "script.py")]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout
    assert re.findall(r"script\.py:(\d+): error", said) == ["6", "7"], said


def test_public_modules_list_their_names_and_pages_use_no_others():
    public = {name: value for name in fw.__all__ if isinstance(value := getattr(fw, name), ModuleType)}
    assert len(public) == 21
    for module in public.values():
        assert sorted(set(module.__all__)) == sorted(module.__all__)
        assert all(hasattr(module, name) and not name.startswith("_") for name in module.__all__), module.__name__
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.py")]
    used = set()
    for text in map(Path.read_text, paths):
        of_modules = rf"\b({'|'.join(public)})\.(?!(?:py|md|json|npz|png|onnx)\b)([A-Za-z]\w*)"
        used |= set(re.findall(of_modules, text))
        for module, names in re.findall(r"from fastweights_np\.(\w+) import ([\w, ]+)", text):
            used |= {(module, name.strip()) for name in names.split(",")}
        for name in re.findall(r"\bfw\.(\w+)", text):
            assert name in fw.__all__, f"fw.{name}"
    assert {module for module, _ in used} >= {"fast_weights", "network", "distributed", "checkpoint"}
    for module, name in sorted(used):
        if module == "plain":  # the forms that are read; their functions are those of the layers
            continue
        assert module in public, f"fastweights_np.{module}.{name} is used on a page, but {module} is not public"
        assert name in public[module].__all__, f"{module}.{name} is used on a page, but not in __all__"


def test_the_audit_is_reachable():
    program = "import fastweights_np as fw; fw.audit.run; assert not hasattr(fw, 'nothing')"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
