"""Recall tasks: sequences of keys and values, models that read a memory of them, and softmax attention."""
