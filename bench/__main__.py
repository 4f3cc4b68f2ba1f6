"""python -m bench COMMAND: measures speed and memory beside the peers, stores runs, makes the paper's tables."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fastweights_np.network import LAYERS
from tasks.running import machine

from . import report, store


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 done, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    cores = machine.cores()
    measuring = {
        "speed": "forward + backward of a layer, beside PyTorch, JAX and autograd",
        "long": "the same at T = 1000, with the peak memory",
        "loop": "updates a second of a task's whole training loop, beside PyTorch eager",
        "memory": "peak memory of a layer against T and H, beside the peers",
        "scaling": "time and memory of a layer against T, H and B",
        "roofline": "time of a layer against what the machine's products and copies allow",
        "profile": "the lines that a layer spends its time in, at one size",
    }
    for command, text in measuring.items():
        each = commands.add_parser(command, help=text)
        layers = [*LAYERS, "convnet"] if command == "loop" else LAYERS
        each.add_argument("--layer", choices=layers, default="fast_weights")
        several = command in ("speed", "long", "loop")
        each.add_argument(
            "--threads", type=_positive, nargs="+" if several else None, default=[1, cores] if several else cores,
            help="cores that each contestant is given",
        )  # fmt: skip
        if command == "loop":
            each.add_argument("--task", choices=("retrieval", "mnist"), default="retrieval")
        if command in ("speed", "long"):
            each.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: timed by CUDA events")
            each.add_argument("--base", metavar="REF", help="compare with ours at this commit instead of the peers")
            each.add_argument("--sizes", type=_size, nargs="+", metavar="B,T,H", help="measure these sizes instead")
        if command == "profile":
            each.add_argument("--size", type=_size, metavar="B,T,H", help="the size (128,11,20)")
    actors = commands.add_parser("actors", help="frames a second of catch's training, with one actor and with several")
    actors.add_argument("--layer", choices=("fast_weights", "irnn", "lstm"), default="fast_weights")
    actors.add_argument(
        "--actors", type=_positive, nargs="+", default=[1, cores], help="how many at once, each in turn"
    )
    commands.add_parser("launches", help="array operations of a time step, which are kernel launches on a GPU")
    faults = commands.add_parser("faults", help="kill runs, fill disks, damage files, feed nonsense to every reader")
    faults.add_argument("kinds", nargs="*", metavar="KIND", help="kinds of fault; all of them by default")
    faults.add_argument("--count", type=_positive, help="cases of each kind")
    faults.add_argument("--seed", type=int, default=0, help="fixes the cases, not the moments of kills")
    faults.add_argument("--report", type=Path, help="a Markdown file to write the table to")
    add = commands.add_parser("add", help="store the results of finished task runs and searches in bench/results")
    add.add_argument("folders", type=Path, nargs="+", help="output folders of python -m tasks")
    add.add_argument("--replace", action="store_true", help="put a run in the place of one that is stored already")
    add.add_argument("--group", default="", help="a name for runs that are not meant for the paper's tables")
    mcnemar = commands.add_parser("mcnemar", help="whether two stored runs differ on the same test examples")
    mcnemar.add_argument("runs", nargs=2, metavar="RUN", help="such as mnist/lstm-R50-seed0")
    reproduce = commands.add_parser("reproduce", help="make the runs that tables and figures lack, and rebuild them")
    reproduce.add_argument("names", nargs="*", metavar="NAME", help="tables and figures")
    reproduce.add_argument("--jobs", type=_positive, default=1, help="runs at the same time")
    reproduce.add_argument("--dry-run", action="store_true", help="only list the runs that are missing")
    reproduce.add_argument("--data-dir", type=Path, help="the folder of the faces, for table3")
    commands.add_parser(
        "paper",
        help="make the paper's tables and figures from bench/results; with --store also those of README and docs",
    )
    if not arguments:
        parser.print_help()
        return 0
    for each in commands.choices.values():
        each.add_argument("--store", action="store_true", help=f"write to bench/results, not to {store.SCRATCH}")
    chosen = parser.parse_args(arguments)
    report.output = store.STORE if chosen.store else store.SCRATCH
    try:
        _do(chosen)
    except KeyboardInterrupt:
        print("bench: interrupted; the same command again resumes what it was making", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f'bench: {error.name} is not installed; pip install -e ".[bench]"', file=sys.stderr)
        return 2
    except (OSError, ValueError, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


def _positive(text: str) -> int:
    """A whole number of at least 1. Raises ValueError."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _size(text: str) -> tuple[int, int, int]:
    """B, T and H from B,T,H. Raises ValueError, which argparse turns into a message."""
    batch_size, steps, hidden_size = (int(number) for number in text.split(","))
    return batch_size, steps, hidden_size


def _do(chosen: argparse.Namespace) -> None:
    # a command loads what it needs
    if chosen.command == "add":
        for folder in chosen.folders:
            print(store.add(folder, chosen.group, chosen.replace))
    elif chosen.command in ("paper", "reproduce"):
        from . import paper

        if chosen.command == "reproduce":
            from .reproduce import reproduce

            reproduce(chosen.names, chosen.jobs, chosen.dry_run, chosen.data_dir)
            if chosen.dry_run:
                return

        print(paper.make())
        tables = (
            "table1.md, table2.md, table3.md, ablation.md, weight-decay.md, search.md, generalization.md, figure5.md"
        )
        print(f"in {report.output}: {tables}, figure2.png, capacity.png, figure5.png")
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
    elif chosen.command == "loop":
        from . import loop

        loop.run(chosen.layer, sorted(set(chosen.threads)), chosen.task)
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
    elif chosen.command == "launches":
        from . import launches

        launches.run()
    elif chosen.command == "profile":
        from . import profile

        profile.run(chosen.layer, chosen.threads, chosen.size)
    else:
        from . import scaling
        from .peers.contest import ENTRIES, FORMS, available

        if chosen.command == "scaling":
            scaling.run(chosen.layer, chosen.threads)
        elif chosen.command == "roofline":
            scaling.roofline(chosen.layer, chosen.threads)
        else:
            peers = [f"{peer}, {form}" for form in FORMS[chosen.layer] for peer in ("JAX scan", "PyTorch eager")]
            left_out = "PyTorch eager, attention"  # it keeps every past read: gigabytes
            names = ["ours", *(name for name in peers if name in ENTRIES and name != left_out)]
            scaling.memory(chosen.layer, available(names)[0], chosen.threads)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
