"""Sizes of one pack of sequences, in which every prompt stands once (areal_gsm8k/training/packing.py).

Attention pads a pack's rows, a prompt or a completion that sees its prompt, to those of one call, and multiplies at
most WASTE pairs of query and key a call for nothing. The output matrix works on LOGITS_AT_ONCE logits at a time
(training/logprob_head.py). tests/plan/test_memory_packs.py holds the constants and the worst pack against those files.

    worst(tokens=5120, prompt=320, completion=512, samples=4, on_gpu=True)
"""

from dataclasses import dataclass

WASTE = {"cpu": 2**13, "cuda": 2**22}  # pairs
LOGITS_AT_ONCE = 2**26  # elements
BLOCK = {"cpu": 2**17, "cuda": 2**24}  # elements that it turns into float32 at once


@dataclass(frozen=True)
class Pack:
    """A pack of T tokens. `queries` and `keys` (tokens) and `pairs` (mask elements) are those of all rows, padded."""

    predicted: int  # N: tokens of completions, whose logprobs the loss is about
    queries: int
    keys: int
    pairs: int
    on_gpu: bool = False  # there keys and values are copied for every query head, and each layer pads the mask again

    @property
    def indices(self) -> int:
        """Bytes of places among the T tokens: rows' queries and keys, predictors, labels and places of logprobs."""
        return 8 * (self.queries + self.keys + 3 * self.predicted)

    def logits(self, vocabulary: int, element: int, backward: bool) -> int:
        """Most bytes at work in the output matrix: a chunk's logits, and float32 arithmetic on a block of them.

        Scaled logits and their exponentials, of which the backward pass has one only, are still there when those of the
        next block are made, and so are a chunk's logits when those of the next are.
        """
        logits = self.predicted * vocabulary
        chunk = min(logits, max(1, LOGITS_AT_ONCE // vocabulary) * vocabulary)
        block = min(chunk, max(1, BLOCK["cuda" if self.on_gpu else "cpu"] // vocabulary) * vocabulary)
        following = min(chunk, logits - chunk)
        kept = 4 if backward else 8
        division = 4 if element == 4 else 8  # before it the logits in float32, and after it
        first = chunk * element + block * (max(kept, division) if block == chunk else kept + division)
        turn = (chunk + following) * element + block * kept
        second = following * element + block * kept + min(block, following) * division
        return max(first, turn, second) if following else first


def worst(tokens: int, prompt: int, completion: int, samples: int, on_gpu: bool) -> Pack:
    """A pack full to `tokens`, of groups of `samples` completions, whose lengths are half of the longest on average.

    As many tokens are taken for predicted, because prompts may be short. Rows padded by q queries to a call's longest
    waste at least q times its keys, so one call's WASTE bounds the padding of queries, and that of keys likewise; so do
    the rows, each as long as the longest.
    """
    length, waste = prompt + completion, WASTE["cuda" if on_gpu else "cpu"]
    groups = 2 * tokens / (prompt + samples * completion)
    rows, keys = groups * (samples + 1), int(groups * (samples * (prompt + completion / 2) + prompt))
    return Pack(
        predicted=tokens,
        queries=max(tokens, min(tokens + waste // length, int(rows * completion))),
        keys=max(keys, min(keys + waste // completion, int(rows * length))),
        pairs=int(min(tokens * length + waste, rows * completion * length)),
        on_gpu=on_gpu,
    )
