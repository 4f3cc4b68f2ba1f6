"""Measure speed and memory, store runs, and make tables and figures. `python -m bench` lists the commands."""
