"""List the runs and searches of each table and figure, by the options of `python -m tasks` that are not defaults.

The runs of a plan are stored in its group, under LAYER-R50-seed0. The paper's numbers are in published.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import fast_slow, games, images, keyvalue, longrecall, mqar, retrieval, text
from .cells import Cell, Search

# searches stand before the runs that take their best settings
PLANS: dict[str, Sequence[Cell | Search]] = {
    "table1": [*retrieval.SEARCHES_OF_LAYER_NORM, *retrieval.TABLE_1, *retrieval.TABLE_1_LAYER_NORM],
    "searches": retrieval.SEARCHES,
    "table1-lstm-longer": retrieval.LONG_LSTM,
    "table1-one-head": retrieval.ONE_HEAD,
    "table1-shared-value": retrieval.SHARED_VALUE,
    "table1-no-recurrent-value": retrieval.NO_RECURRENT_VALUE,
    "figure2": [cell for cell in retrieval.TABLE_1 if "--test-curve" in cell.options],
    "capacity": [*retrieval.CAPACITY, *retrieval.CAPACITY_NO_DECAY],
    "sensitivity": retrieval.SENSITIVITIES,
    "generalization": retrieval.GENERALIZATION,
    "retrieval-controls": retrieval.RETRIEVAL_CONTROLS,
    "table2": images.TABLE_2,
    "ablation": images.ABLATION,
    "factorial": images.FACTORIALS,
    "glimpse-type": images.GLIMPSE_TYPE,
    "table2-searches": images.MNIST_SEARCHES,
    "weight-decay": images.WEIGHT_DECAY,
    "table3": images.TABLE_3,
    "table3-clean": images.TABLE_3_CLEAN,
    "table3-synthetic": images.TABLE_3_SYNTHETIC,
    "figure5": games.FIGURE_5,
    "keyvalue": keyvalue.KEYVALUE,
    "mqar": mqar.MQAR,
    "longrecall": longrecall.LONGRECALL,
    "text": text.TEXT,
    "fast_slow": fast_slow.FAST_SLOW,
}
