"""Bytes of AReaL's logits, and of all that it makes of them, 1,024 positions at a time.

AReaL's own path (areal/utils/functional/vocab_parallel.py), taken where the trainer makes no packs (packs.py): with
flash attention, tensor parallelism, or a model without an attention interface.
"""

from dataclasses import dataclass

CHUNK = 1024  # positions whose logprobs AReaL computes at once


@dataclass(frozen=True)
class WholeLogits:
    """The logits (tokens, vocabulary) of one micro-batch on one rank; `vocabulary` is this rank's part of it."""

    tokens: int
    vocabulary: int
    element: int
    compiled: bool = True  # torch.compile of AReaL's logprobs: everywhere but on CPU
    parallel: bool = False  # sharded by vocabulary over tensor-parallel ranks

    @property
    def size(self) -> int:
        return self.tokens * self.vocabulary * self.element

    @property
    def _chunks(self) -> list[int]:
        """Logits (elements) of each chunk of positions."""
        whole, rest = divmod(self.tokens, CHUNK)
        return [CHUNK * self.vocabulary] * whole + [rest * self.vocabulary] * (rest > 0)

    @property
    def logprobs_only(self) -> int:
        """Without gradients: float32 copies of one chunk's logits."""
        return max(self._chunks) * (12 if self.parallel else 4 if self.compiled else 8)

    @property
    def loss(self) -> int:
        """Made of the logits on the way to the loss.

        Eager: every chunk keeps its log-softmax and its exponential, both float32, and the last one a product more.
        Compiled: recomputed in the backward pass, so that only the chunk at work costs anything.
        Vocabulary-parallel: float32 logits and softmax kept, three copies at work.
        """
        chunks = self._chunks
        if self.parallel:
            return max(sum(chunks[:i]) * 4 + chunk * 16 for i, chunk in enumerate(chunks))
        if self.compiled:
            return max(chunks) * 4
        return max(sum(chunks[:i]) * 8 + chunk * 12 for i, chunk in enumerate(chunks))

    @property
    def loss_backward(self) -> int:
        """Made while the loss is differentiated, chunk by chunk from the last: the gradient of all logits, another of
        the same size for the chunk's own (the backward of a slice), and the chunk's float32 work.
        """
        chunks, most = self._chunks, 0
        lean = self.compiled and not self.parallel
        saved = 0 if lean else 4
        for i, chunk in enumerate(chunks):
            earlier = self.size if i + 1 < len(chunks) else 0
            working = chunk * (saved + (self.element if lean else 8))
            most = max(most, earlier + sum(chunks[:i]) * saved + max(working, self.size + chunk * self.element))
        return most
