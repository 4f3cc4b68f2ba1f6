"""Find and leave out faces that occur more than once, pixel for pixel, within the training or test set or in both."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy

from .face_sets import Expressions, take

# why an image is left out; one that fits several reasons is counted for the first
IN_TRAINING, CONFLICTING, REPEATED = "test_images_in_training_set", "conflicting_labels", "repeated_in_one_set"
TEXT = {
    IN_TRAINING: "test images that are also training images",
    CONFLICTING: "other images that occur with different labels",
    REPEATED: "other repeats within one set",
}


def without_duplicates(data: Expressions) -> tuple[Expressions, dict[str, int]]:
    """Return (data set without duplicates, number of images left out for each reason).

    Images are compared by the SHA-256 of their pixels. A test image that is also a training image is left out of the
    test set. An image that occurs with different labels, in whichever set, is left out with all its copies. Of other
    repeats within one set the first is kept.

    Raise ValueError if no training images or no test images remain.
    """
    parts = {"training": data.training, "test": data.test}
    digests = {
        name: [hashlib.sha256(image.tobytes()).digest() for image in part.pixels] for name, part in parts.items()
    }
    in_training, labels = set(digests["training"]), defaultdict(set)
    for name, part in parts.items():
        for digest, label in zip(digests[name], part.labels.tolist(), strict=True):
            labels[digest].add(label)
    counts, kept = dict.fromkeys(TEXT, 0), {}
    for name, part in parts.items():
        seen, chosen = set[bytes](), list[int]()
        for n, digest in enumerate(digests[name]):
            if name == "test" and digest in in_training:
                counts[IN_TRAINING] += 1
            elif len(labels[digest]) > 1:
                counts[CONFLICTING] += 1
            elif digest in seen:
                counts[REPEATED] += 1
            else:
                chosen.append(n)
            seen.add(digest)
        if not chosen:
            raise ValueError(
                f"data: expected {name} images that remain without duplicates, found none among "
                f"{len(part.labels)}: {described(counts)}; --keep-duplicates keeps them"
            )
        kept[name] = take(part, numpy.array(chosen))
    return data._replace(training=kept["training"], test=kept["test"]), counts


def described(counts: dict[str, int]) -> str:
    """Return the numbers of `without_duplicates` as text."""
    return ", ".join(f"{count:,} {TEXT[reason]}" for reason, count in counts.items())
