"""The paper's tasks: one file a task, with its data, its model and its defaults. `python -m tasks` lists them."""
