"""Memory of one rollout server: weights, keys and values, and working memory.

SGLang 0.5.10 and vLLM take a share of the card and fill it with keys and values; SGLang's need beyond its share
(python/sglang/srt/server_args.py, _handle_gpu_memory_settings, and model_runner_kv_cache_mixin.py,
profile_max_num_token) is estimated here. Our embedded server (areal_gsm8k/serve) takes as much as its requests need.
Kwon et al. 2023 (PagedAttention, arXiv:2309.06180, section 2) count keys and values as here.
"""

from dataclasses import dataclass

from areal_gsm8k.machine.nvidia import GIB, MIB
from areal_gsm8k.plan.memory.model_shape import ModelShape
from areal_gsm8k.plan.memory.trainer import Parts

METADATA = 512 * MIB  # SGLang's own figure: workspaces of the attention back end and the like
GRAPH = 2 * MIB  # SGLang's own figure: CUDA graphs, for each sequence of the largest captured batch
GRAPH_BATCHES = ((20, 8), (35, 24), (60, 32))  # on a card below so many GiB SGLang captures up to so many sequences
LARGEST_GRAPH_BATCH = 256
FLOAT = 4  # bytes: logits are sampled in float32
ROWS, COLUMNS = 8, 128  # smallest height and width of the embedded server's slab (serve/kv_slab.py)
KEPT = 256 * MIB  # bound on the embedded server's prompt cache (serve/prompt_cache.py)
SAMPLING = 3  # copies of the logits while sampling: scaled, probabilities, sums


@dataclass(frozen=True)
class Server:
    """One rank of one rollout server. At once run `sequences` of at most `length` tokens, `prompt` of them given."""

    backend: str  # sglang, vllm or embedded
    shape: ModelShape
    element: int  # bytes of a weight, and of a key or value
    sequences: int
    prompts: int  # different prompts among those sequences
    prompt: int
    length: int
    share: float = 0.0  # of the card: sglang.mem_fraction_static or vllm.gpu_memory_utilization
    tensor: int = 1
    pipeline: int = 1
    prefill: int = 32768  # most prompt tokens computed at once
    graphs: int | None = None  # sequences of the largest CUDA graph: sglang.cuda_graph_max_bs; 0: no graphs
    packed: bool = False  # a second copy of every matrix: the embedded server in bfloat16 (serve/packed_linear.py)

    @property
    def weights(self) -> int:
        return self.shape.parameters * self.element // (self.tensor * self.pipeline)

    @property
    def kv_token(self) -> int:
        return self.shape.kv_bytes_per_token(self.element, self.tensor) // self.pipeline

    @property
    def kv_wanted(self) -> int:
        """Keys and values of every sequence at its full length."""
        return self.sequences * self.length * self.kv_token

    @property
    def prefilling(self) -> int:
        """One prefill's widest moment: the MLP's two inputs and their product, and four hidden states."""
        tokens = min(self.prefill, self.sequences * self.prompt)
        return tokens * (3 * self.shape.intermediate // self.tensor + 4 * self.shape.hidden) * self.element

    @property
    def sampling(self) -> int:
        return SAMPLING * self.sequences * self.shape.vocab * FLOAT

    def graph_bytes(self, card: int) -> int:
        batch = self.graphs
        if batch is None:
            batch = next((batch for gib, batch in GRAPH_BATCHES if card < gib * GIB), LARGEST_GRAPH_BATCH)
        return batch * GRAPH

    def outside(self, card: int) -> int:
        """Working memory of SGLang beside its share."""
        return self.prefilling + self.sampling + self.graph_bytes(card) + METADATA

    def smallest_share(self, free: int, card: int, sequences: int | None = None) -> float:
        """The share, in hundredths, that leaves room for so many full sequences (all of them when not said)."""
        kv = self.kv_wanted if sequences is None else sequences * self.length * self.kv_token
        static, base = self.weights + kv, free
        if self.backend == "vllm":  # vLLM's share is of the whole card and covers its working memory
            static, base = static + self.prefilling + self.sampling + METADATA, card
        return -(-static * 100 // base) / 100

    def parts(self, card: int, free: int) -> Parts:
        """Bytes on a card of `card` bytes of which `free` were free when the server started. Peak, not average.

        Keys and values are negative where the share does not even hold the weights.
        """
        if self.backend == "embedded":
            return self._embedded()
        if self.backend == "vllm":
            working = self.prefilling + self.sampling + METADATA
            kv = int(self.share * card) - self.weights - working
            return {"weights": self.weights, "keys and values": kv, "working": working + self.graph_bytes(card)}
        kv = int(self.share * free) - self.weights
        return {"weights": self.weights, "keys and values": kv, "working": self.outside(card)}

    def _embedded(self) -> Parts:
        """areal_gsm8k/serve: the slab at its largest, with the smaller one it grew out of (kv_slab.py, reserve)."""
        rows = max(ROWS, 1 << (self.sequences - 1).bit_length())
        column = rows * (self.kv_token + self.element)  # with the mask
        columns = _widened(COLUMNS, self.prompt)
        before = columns * column // 2 if rows > ROWS else 0
        while (wider := _widened(columns, min(columns, self.length))) > columns < _roomy(self.length):
            before, columns = columns * column, wider
        kept = min(KEPT, self.prompts * (self.prompt * self.kv_token + self.shape.vocab * self.element))
        working = max(before, self.prefilling, self.sampling)
        matrices = self.shape.layers * self.shape.layer_parameters + self.shape.embedding_parameters
        weights = self.weights + self.packed * matrices * self.element
        return {"weights": weights, "keys and values": columns * column + kept, "working": working}


def _roomy(width: int) -> int:
    """Columns from which a slab need not grow for a window of so many columns."""
    return width + max(COLUMNS // 2, width // 4)


def _widened(columns: int, width: int) -> int:
    return columns if columns >= _roomy(width) else width + max(COLUMNS, width // 2)
