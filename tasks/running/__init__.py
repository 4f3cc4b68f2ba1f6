"""What a run is: its settings, folder, checkpoints, training loop, and how it ends."""
