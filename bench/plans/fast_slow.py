"""Plan the searches and runs of fast_slow: two designs, their controls, and what they must show.

A search chooses rates on a validation base and a validation seed, and the runs use other bases and seeds. Its criterion
is the mean reward of a run of one task. Rows at a fixed rate of the weights share the contexts' rate of a search.
"""

from __future__ import annotations

from typing import NamedTuple

from .cells import Cell, Search

SEEDS, BASES = 5, (0, 1)
VALIDATION = "--seed 100 --base-seed 100 --tasks 1 --no-second"
SLOW_GRID = "learning_rate=0.0003,0.001,0.003,0.01"
FAST_GRID = "fast_learning_rate=0.01,0.02,0.04"

# what the study must show with five digits, for each base, fixed before the runs
ORACLE = 0.99  # accuracy of the base where π is shown, with as many pairs as in the tasks
CONTEXT_REWARD, CONTEXT_SEEDS = 0.99, 4  # contexts alone, within the run's episodes
BOTH_EPISODES = 30_000  # median episodes to a reward of 0.9
BASE_ACCURACY = 0.99  # at the end, both
SECOND_SLOW, SECOND_CONTEXT = 1, 4  # seeds that learn a second task by the weights alone: at most, at least


class Row(NamedTuple):
    """An arm: its name in tables, its options, and the search whose rates it takes ("" for none)."""

    key: str  # of its group
    name: str
    options: str
    search: str = ""

    def group(self, base: int) -> str:
        """Return the group of the arm's runs from a base policy."""
        return f"fast_slow-{self.key}-base{base}"

    def cell(self, base: int, seeds: int = SEEDS) -> Cell:
        """Return the arm's runs from a base policy."""
        return Cell(self.group(base), f"{self.options} --base-seed {base}", tuple(range(seeds)), self.search)


def _search(key: str, options: str, grid: str) -> Search:
    return Search(f"fast_slow-{key}", "fast_slow", f"{options} {VALIDATION}", grid)


SEARCHES = [
    _search("slow", "--method slow", SLOW_GRID),
    _search("fast", "--method fast", FAST_GRID),
    _search("block", "--method fast --context block", FAST_GRID),
    _search("kl", "--method slow", "kl_weight=0.1,0.3,1"),
    _search("both", "--method both", f"{SLOW_GRID} fast_learning_rate=0.02,0.04"),
]
LOW, FIXED = "--learning-rate 0.0001", "--learning-rate 0.0003"
DESIGN_1 = [
    Row("slow", "weights alone, 3e-4", f"--method slow {FIXED}"),
    Row("both-low", "both, weights 1e-4", f"--method both {LOW}", "fast_slow-fast"),
    Row("fast", "contexts alone", "--method fast", "fast_slow-fast"),
    Row("both", "both, weights 3e-4", f"--method both {FIXED}", "fast_slow-fast"),
    Row("block-low", "both with blocks, weights 1e-4", f"--method both --context block {LOW}", "fast_slow-block"),
    Row("slow-best", "weights alone, best rate", "--method slow", "fast_slow-slow"),
    Row("slow-kl", "weights alone, 3e-4, KL penalty", f"--method slow {FIXED}", "fast_slow-kl"),
    Row("block", "blocks alone", "--method fast --context block", "fast_slow-block"),
    Row("slow-low", "weights alone, 1e-4", f"--method slow {LOW}"),
    Row("both-best", "both, best rates", "--method both", "fast_slow-both"),
    Row("same-low", "both, same episodes, weights 1e-4", f"--method both --interleave 0 {LOW}", "fast_slow-fast"),
    Row("fast-slow", "contexts, then weights 3e-4", f"--method fast_then_slow {FIXED}", "fast_slow-fast"),
    Row("slow-fast", "weights 3e-4, then contexts", f"--method slow_then_fast {FIXED}", "fast_slow-fast"),
    Row("random", "weights 3e-4, random contexts", f"--method random {FIXED}"),
    Row("block-both", "both with blocks, weights 3e-4", f"--method both --context block {FIXED}", "fast_slow-block"),
]
PROMPT = "--context prompt"
DESIGN_2 = [
    Row("prompt", "prompts alone", f"--method fast {PROMPT}"),
    Row("prompt-both-low", "both, weights 1e-4", f"--method both {PROMPT} {LOW}"),
    Row("prompt-feedback", "prompts alone, feedback", f"--method fast {PROMPT} --feedback"),
    Row("prompt-both", "both, weights 3e-4", f"--method both {PROMPT} {FIXED}"),
    Row("prompt-both-feedback", "both, weights 1e-4, feedback", f"--method both {PROMPT} --feedback {LOW}"),
    Row("prompt-slow", "prompts, then weights 3e-4", f"--method fast_then_slow {PROMPT} {FIXED}"),
    Row("slow-prompt", "weights 3e-4, then prompts", f"--method slow_then_fast {PROMPT} {FIXED}"),
    Row("prompt-random", "weights 3e-4, random prompts", f"--method random {PROMPT} {FIXED}"),
]
# as they come out: ten digits, and a base policy that does not always follow the shown permutation
TEN = "--digits 10 --hidden-size 100 --decay 0.97 --base-updates 20000 --episodes 154000"
WEAK = "--hidden-size 50 --base-updates 2500 --pairs 10"
HARDER_SEEDS = 3
HARDER = [
    Row(f"{size}-{row.key}", row.name, f"{row.options} {options}{rank * (row.key != 'slow')}", row.search)
    for size, options, rank in (("ten", TEN, " --rank 11"), ("weak", WEAK, ""))
    for row in DESIGN_1 if row.key in ("slow", "fast", "both", "both-low", "block-low")
]  # fmt: skip
FAST_SLOW: list[Cell | Search] = [
    *SEARCHES,
    *(row.cell(base) for base in BASES for row in (*DESIGN_1, *DESIGN_2)),
    *(row.cell(0, HARDER_SEEDS) for row in HARDER),
]
