"""Measure speed and memory compared with the peers, store runs and make the paper's tables: python -m bench COMMAND."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from fastweights_np.network import LAYERS
from tasks.running import console, machine

from . import report, store


def main(arguments: list[str]) -> int:
    """Run a command line and return the exit code: 0 done, 2 invalid arguments or a failure, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    cores, sizes = machine.cores(), _sizes("B,T,H")
    measuring = {
        "speed": "time forward + backward of a layer, compared with PyTorch, JAX and autograd",
        "long": "measure time and peak memory of a layer at T = 1000, compared with the peers",
        "loop": "measure updates per second of a task's whole training loop, compared with PyTorch eager",
        "memory": "measure peak memory of a layer for several T and H, compared with the peers",
        "scaling": "measure time and memory of a layer for many T, H and B",
        "roofline": "compare a layer's time with the limits of the machine's matrix products and memory copies",
        "profile": "list the source lines where a layer spends its time, at one size",
    }
    for command, text in measuring.items():
        each = commands.add_parser(command, help=text)
        layers = [*LAYERS, "convnet"] if command == "loop" else LAYERS
        each.add_argument("--layer", choices=layers, default="fast_weights")
        several = command in ("speed", "long", "loop")
        each.add_argument(
            "--threads", type=_positive, nargs="+" if several else None, default=[1, cores] if several else cores,
            help="number of cores for each framework",
        )  # fmt: skip
        if command == "loop":
            each.add_argument("--task", choices=("retrieval", "mnist"), default="retrieval")
        if command in ("speed", "long"):
            each.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: timed by CUDA events")
            each.add_argument("--base", metavar="REF", help="compare with this repository at a commit, not with peers")
            each.add_argument("--sizes", type=sizes, nargs="+", metavar="B,T,H", help="measure only these sizes")
        if command == "profile":
            each.add_argument("--size", type=sizes, metavar="B,T,H", help="size to profile (default: 128,11,20)")
    inference = commands.add_parser(
        "inference", help="time the forward pass without gradients, compared with the peers"
    )
    inference.add_argument("--sizes", type=sizes, nargs="+", metavar="B,T,H", help="measure only these sizes")
    step = commands.add_parser("step", help="time one step of the fast-weight layer, compared with the peers")
    step.add_argument("--sizes", type=_sizes("B,H"), nargs="+", metavar="B,H", help="measure only these sizes")
    step.add_argument(
        "--endure", type=_positive, metavar="STEPS",
        help="instead, measure time, memory and error of the stepper over this many steps",
    )  # fmt: skip
    commands.add_parser("rules", help="measure what eight write rules hold and forget, without training")
    chunks = commands.add_parser("chunks", help="time the write rules in chunks, compared with PyTorch and JAX")
    transformer = commands.add_parser(
        "transformer", help="time an update of the transformer, compared with PyTorch eager and compiled"
    )
    for each in (inference, step, chunks, transformer):
        each.add_argument(
            "--threads", type=_positive, nargs="+", default=[1, cores], help="number of cores for each framework"
        )
    ranks = commands.add_parser(
        "ranks",
        help="measure updates per second of training on one rank and on all: mpiexec -n 2 python -m bench ranks",
    )
    instead = ranks.add_mutually_exclusive_group()
    instead.add_argument("--model", action="store_true", help="instead, model many nodes from the stored measurement")
    instead.add_argument(
        "--agreement", action="store_true",
        help="instead, compare the parameters after 200 updates of one rank and of two, without mpiexec",
    )  # fmt: skip
    actors = commands.add_parser("actors", help="measure frames per second of catch's training for numbers of actors")
    actors.add_argument("--layer", choices=("fast_weights", "irnn", "lstm"), default="fast_weights")
    actors.add_argument("--actors", type=_positive, nargs="+", default=[1, cores], help="numbers of actors to measure")
    commands.add_parser("logits", help="measure what In-Place TTT adds to the logits of a network before training")
    commands.add_parser("launches", help="count array operations per time step: kernel launches on a GPU")
    measurements = [*commands.choices.values()]
    faults = commands.add_parser("faults", help="test robustness: kill runs, fill disks, damage files and input data")
    faults.add_argument("kinds", nargs="*", metavar="KIND", help="kinds of fault (default: all)")
    faults.add_argument("--count", type=_positive, help="number of cases of each kind")
    faults.add_argument("--seed", type=int, default=0, help="random seed of the cases, but not of the kill times")
    faults.add_argument("--report", type=Path, help="Markdown file for the table")
    add = commands.add_parser("add", help="store the results of finished task runs and searches in bench/results")
    add.add_argument("folders", type=Path, nargs="+", help="output folders of python -m tasks")
    add.add_argument("--replace", action="store_true", help="replace a stored run with the same name")
    add.add_argument("--group", default="", help="name of a group of runs that are not in the paper's tables")
    mcnemar = commands.add_parser("mcnemar", help="test whether two stored runs differ on the same test examples")
    mcnemar.add_argument("runs", nargs=2, metavar="RUN", help="name of a run that stored its wrong answers")
    reproduce = commands.add_parser("reproduce", help="make the missing runs of tables and figures, and rebuild these")
    reproduce.add_argument("names", nargs="*", metavar="NAME", help="plans, or how names of runs begin")
    reproduce.add_argument("--jobs", type=_positive, help="number of runs in parallel (default: 1)")
    reproduce.add_argument("--dry-run", action="store_true", help="only list the runs")
    reproduce.add_argument("--again", action="store_true", help="make stored runs again; print both figures")
    reproduce.add_argument("--data-dir", type=Path, help="folder of FER-2013, for table3 and table3-clean")
    paper = commands.add_parser(
        "paper",
        help="make the paper's tables and figures from bench/results; with --store also the tables of README and docs",
    )
    if not arguments:
        parser.print_help()
        return 0
    for each in (*measurements, reproduce, paper):
        what = "write tables and figures to" if each in (reproduce, paper) else "write to"
        each.add_argument("--store", action="store_true", help=f"{what} bench/results, not to {store.SCRATCH}")
    chosen = parser.parse_args(arguments)
    report.output = store.STORE if getattr(chosen, "store", False) else store.SCRATCH
    try:
        with console.outputs() as (out, _):
            _do(chosen)
        if out.error is not None:
            raise out.error
    except KeyboardInterrupt:
        print("bench: interrupted; repeat the command to resume", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f'bench: {error.name} is not installed; pip install -e ".[bench]"', file=sys.stderr)
        return 2
    except (OSError, ValueError, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


def _positive(text: str) -> int:
    """Return the text as a whole number of at least 1. Raise ArgumentTypeError."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _sizes(names: str) -> Callable[[str], tuple[int, ...]]:
    """Return the function that reads sizes of these names, such as B,T,H. It raises ArgumentTypeError."""

    def sizes(text: str) -> tuple[int, ...]:
        words = text.split(",")
        if len(words) != len(names.split(",")) or not all(word.isdecimal() and int(word) for word in words):
            raise argparse.ArgumentTypeError(f"expected {names}, whole numbers of at least 1, got {text!r}")
        return tuple(map(int, words))

    return sizes


def _do(chosen: argparse.Namespace) -> None:
    # each command imports only its own modules
    if chosen.command == "add":
        for folder in chosen.folders:
            print(store.add(folder, chosen.group, chosen.replace))
    elif chosen.command in ("paper", "reproduce"):
        from . import paper

        if chosen.command == "reproduce":
            from .reproduce import reproduce

            only = "--dry-run" if chosen.dry_run else "--again" if chosen.again else ""
            unused = {"--jobs": chosen.jobs, "--data-dir": chosen.data_dir} if chosen.dry_run else {}
            for option, value in (unused | ({"--store": chosen.store} if only else {})).items():
                if value:
                    raise ValueError(f"reproduce: {option} has no effect with {only}; leave it out")
            reproduce(chosen.names, chosen.jobs or 1, chosen.dry_run, chosen.data_dir, chosen.again)
            if only:
                return

        print(paper.make())
        tables = (
            "table1.md, table2.md, table3.md, ablation.md, weight-decay.md, search.md, generalization.md, figure5.md"
        )
        print(f"in {report.output}: {tables}, figure2.png, figure5.png, capacity.png, generalization.png, speed.png")
        if chosen.store:
            from . import pages

            changed = [str(path.relative_to(pages.ROOT)) for path in pages.write()]
            print(f"pages with new tables: {', '.join(changed) or 'none'}")
    elif chosen.command in ("speed", "long"):
        from . import base, speed

        threads = sorted(set(chosen.threads)) if chosen.device == "cpu" else [max(chosen.threads)]
        if chosen.base is not None:
            sizes = chosen.sizes or speed.sizes_of(chosen.layer, chosen.command == "long")
            base.run(chosen.layer, threads, chosen.base, sizes, "speed-base" + report.sized(chosen.sizes or ()))
            return
        speed.run(chosen.layer, threads, chosen.command == "long", chosen.sizes or (), chosen.device)
    elif chosen.command == "inference":
        from . import inference

        inference.run(sorted(set(chosen.threads)), chosen.sizes or ())
    elif chosen.command == "rules":
        from . import rules

        rules.run()
    elif chosen.command == "chunks":
        from . import chunks

        chunks.run(sorted(set(chosen.threads)))
    elif chosen.command == "transformer":
        from . import transformer

        transformer.run(sorted(set(chosen.threads)))
    elif chosen.command == "step":
        if chosen.endure is not None:
            from . import endurance

            endurance.run(chosen.endure)
            return
        from . import step

        step.run(sorted(set(chosen.threads)), chosen.sizes or ())
    elif chosen.command == "loop":
        from . import loop

        loop.run(chosen.layer, sorted(set(chosen.threads)), chosen.task)
    elif chosen.command == "ranks":
        if chosen.model:
            from . import ranks_model

            ranks_model.run()
            return
        if chosen.agreement:
            from . import ranks_agreement

            ranks_agreement.run()
            return
        from . import ranks

        ranks.run()
    elif chosen.command == "actors":
        from . import actors

        actors.run(chosen.layer, sorted(set(chosen.actors)))
    elif chosen.command == "mcnemar":
        from .mcnemar import compare

        print(compare(*chosen.runs))
    elif chosen.command == "faults":
        from . import faults

        unknown = [kind for kind in chosen.kinds if kind not in faults.COUNTS]
        if unknown:
            raise ValueError(f"faults: expected among {', '.join(faults.COUNTS)}; got {', '.join(unknown)}")
        if wrong := faults.measure(chosen.kinds, chosen.count, chosen.seed, chosen.report):
            raise RuntimeError(f"{wrong} cases went wrong")
    elif chosen.command == "logits":
        from . import initial_logits

        initial_logits.run()
    elif chosen.command == "launches":
        from . import launches

        launches.run()
    elif chosen.command == "profile":
        from . import profile

        profile.run(chosen.layer, chosen.threads, chosen.size)
    else:
        from . import scaling
        from .peers.runner import ENTRIES, FORMS, available

        if chosen.command == "scaling":
            scaling.run(chosen.layer, chosen.threads)
        elif chosen.command == "roofline":
            scaling.roofline(chosen.layer, chosen.threads)
        else:
            peers = [f"{peer}, {form}" for form in FORMS[chosen.layer] for peer in ("JAX scan", "PyTorch eager")]
            left_out = "PyTorch eager, attention"  # it stores every past read: gigabytes
            names = ["ours", *(name for name in peers if name in ENTRIES and name != left_out)]
            scaling.memory(chosen.layer, available(names)[0], chosen.threads)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
