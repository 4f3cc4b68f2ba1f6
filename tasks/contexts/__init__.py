"""Tasks with a hidden convention, and the contexts and weights that learn it: the parts of the task fast_slow."""
