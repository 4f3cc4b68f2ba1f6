"""Catch, as a game, as an environment, and agents that play it."""
