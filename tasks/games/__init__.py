"""The Catch game, its Gymnasium environment, and agents that play it."""
