"""Sequences of tokens by a rule that needs context, as series in a .npz file.

    python -m examples.tokens tokens.npz
    dance-tf search --data=tokens.npz --space=encoder_small --preset=quick --output_dir=runs/tokens

A sequence has 16 tokens of 16 kinds, one-hot. The class says whether the first token comes
again anywhere behind it, which holds for half of the sequences. No short stretch of the
sequence tells it, nor do the counts of its tokens.
"""

import sys

import numpy as np

NUM_STEPS, NUM_TOKENS = 16, 16


def tokens(num, seed):
    """Return one-hot sequences, float32 [num, 16, 16], and their classes, int [num]."""
    random = np.random.default_rng(seed)
    found = random.integers(0, NUM_TOKENS, size=(num, NUM_STEPS))
    labels = random.integers(0, 2, size=num)
    first = found[:, :1]
    # Another kind than the first wherever that comes again by chance.
    others = (first + random.integers(1, NUM_TOKENS, size=found.shape)) % NUM_TOKENS
    found[:, 1:] = np.where(found == first, others, found)[:, 1:]
    places = random.integers(1, NUM_STEPS, size=num)
    found[np.arange(num), places] = np.where(
        labels == 1, first[:, 0], found[np.arange(num), places]
    )
    return np.eye(NUM_TOKENS, dtype=np.float32)[found], labels


def arrays():
    """Return the arrays of the file."""
    (x_train, y_train), (x_test, y_test) = tokens(5120, 0), tokens(1024, 1)
    names = ["once", "again"]
    return dict(x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, class_names=names)


if __name__ == "__main__":
    np.savez(sys.argv[1], **arrays())
