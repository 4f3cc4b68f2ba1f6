"""Figures and tables from stored runs. `python -m bench` lists what it can do."""
