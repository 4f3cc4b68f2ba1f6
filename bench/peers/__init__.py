"""Run our layers and the same layers in other frameworks, each in a separate process.

`problem.py` defines the computation, and `in_*.py` implement it. `worker.py` is the process of one framework.
`runner.py` starts these processes, checks their answers, and runs them in turns.
"""
