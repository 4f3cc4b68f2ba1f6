"""The same layers written in other frameworks, for the benches: every one computes what `problem.py` describes."""
