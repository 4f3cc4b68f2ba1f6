"""Draw the pictures of an output folder."""

from .attention import attention, attention_to_places, film, film_strip
from .contexts import contexts_curve
from .curves import learning_curve, reward_curve, search
from .images import confusion, glimpses
from .style import title

__all__ = [
    "attention", "attention_to_places", "confusion", "contexts_curve", "film", "film_strip", "glimpses",
    "learning_curve", "reward_curve", "search", "title",
]  # fmt: skip
