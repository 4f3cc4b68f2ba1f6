"""Draw the pictures of an output folder."""

from .attention import attention, attention_to_places, film, film_strip
from .contexts import contexts_curve
from .curves import learning_curve, reward_curve, search
from .images import confusion, glimpses
from .long_context import accuracy_by_distance, loss_by_position, writes
from .style import title

__all__ = [
    "accuracy_by_distance", "attention", "attention_to_places", "confusion", "contexts_curve", "film", "film_strip",
    "glimpses", "learning_curve", "loss_by_position", "reward_curve", "search", "title", "writes",
]  # fmt: skip
