"""The contestants of the benches: our layers, and the same layers in other frameworks, each in a process of its own.

`problem.py` says what is computed, `in_*.py` compute it, `worker.py` is the process of one contestant and
`contest.py` the one that starts them, checks that all answer alike, and lets them take turns.
"""
