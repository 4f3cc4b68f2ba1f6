"""Run tasks: settings, folders, checkpoints, the training loop, and exit codes."""
