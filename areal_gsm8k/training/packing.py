"""Packs sampled sequences into microbatches in which every prompt stands once, before all of its completions.

A batch of GRPO holds groups: n completions of one prompt. AReaL packs every sequence whole, so the prompt is computed n
times, and its last step multiplies every token's hidden state with the output matrix although the loss is about
completions only. A pack computes each prompt once for the completions that lie in it, and says which hidden states
predict a completion's token.

    pack        prompt A | prompt B | completion A1 | completion A2 | completion B1        T tokens
    AReaL's     A A1 | A A2 | B B1                                                         F tokens

Dimension names: B sequences of S tokens in a padded batch, with G prompts; R rows of attention (a prompt, or a
completion that sees its prompt before itself) of Q queries and K keys; N tokens to predict.

    microbatches(batch, MicroBatchSpec(max_tokens_per_mb=5120))    # training/actor.py
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from areal.api.cli_args import MicroBatchSpec
from areal.utils.data import MicroBatchList, allocate_balanced_mbs

MANY = 10**12  # tokens: no bound
WASTE = {"cpu": 2**13}  # pairs of query and key that one call of attention may multiply for nothing
WASTE_ON_A_CARD = 2**22  # where a call costs more than its arithmetic


@dataclass
class Rows:
    """Some rows of a pack's attention, of similar sizes. Padding points at token 0; nobody reads what comes of it."""

    queries_RQ: torch.Tensor  # places among the T tokens
    keys_RK: torch.Tensor  # a row's prefix, then its queries
    prefix_R: torch.Tensor  # tokens a row's first query sees before itself

    def __post_init__(self):
        self._mask: torch.Tensor | None = None  # made by the first layer of a pass, for all

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """What to add to attention scores, (R, 1, Q, K)."""
        if self._mask is None or self._mask.dtype != dtype:
            device = self.queries_RQ.device
            newest_RQ1 = (self.prefix_R[:, None] + torch.arange(self.queries_RQ.shape[1], device=device))[..., None]
            hidden_RQK = torch.arange(self.keys_RK.shape[1], device=device) > newest_RQ1
            mask_RQK = torch.zeros(hidden_RQK.shape, dtype=dtype, device=device)
            self._mask = mask_RQK.masked_fill_(hidden_RQK, float("-inf")).unsqueeze(1)
        return self._mask

    def forget_mask(self) -> None:
        """Once the pack's backward pass is done: a batch of many packs would keep all their masks."""
        self._mask = None


@dataclass
class Pack:
    """What attention (training/attention.py) and output matrix (training/logprob_head.py) must know of a pack."""

    rows: list[Rows]
    answers_T: torch.Tensor  # the T tokens' places among all rows' queries, flat, with padding
    predictors_N: torch.Tensor  # the tokens, of T, whose hidden states predict a completion's token
    labels_N: torch.Tensor  # the tokens they should predict
    places_N: torch.Tensor  # the predictors' places among AReaL's F tokens
    full_tokens: int  # F
    last: bool = False  # of its batch


def microbatches(batch: dict[str, Any], spec: MicroBatchSpec, group: dist.ProcessGroup | None = None) -> MicroBatchList:
    """The padded batch as packs of at most `spec.max_tokens_per_mb` tokens, with AReaL's flat tensors beside each.

    `batch` holds input_ids and attention_mask, (B, S), and versions, (B, S): at least 0 where a token was generated.
    What stands before the first generated token is the prompt; without versions it is the first token. `group`: the
    data-parallel ranks, which must all make as many packs, because each takes part in every FSDP collective.

    Raises:
        RuntimeError: a sequence is longer than `spec.max_tokens_per_mb`, or there are fewer than packs to make.
    """
    real_BS = batch["attention_mask"].bool()
    lengths_B = real_BS.sum(-1)
    prompts_B = _prompt_lengths(batch.get("versions"), lengths_B)
    pieces = _pieces(batch["input_ids"], lengths_B, prompts_B, spec.max_tokens_per_mb)
    bounded = MicroBatchSpec.new(spec, max_tokens_per_mb=spec.max_tokens_per_mb or MANY, n_mbs=1)
    bins = allocate_balanced_mbs(bounded, [piece.tokens for piece in pieces])
    rows_of = [[row for index in bin_ for row in pieces[index].rows] for bin_ in bins]
    rows_of = _cut(rows_of, max(_counts(len(rows_of), group), spec.n_mbs or 1))

    flats, inputs = [], []
    for rows in rows_of:
        part = {name: value[rows] if _by_sequence(value, real_BS) else value for name, value in batch.items()}
        flats.append(_flat(part))
        inputs.append(_model_inputs(part["input_ids"], lengths_B[rows], prompts_B[rows]))
    inputs[-1]["pack"].last = True
    forward = [row for rows in rows_of for row in rows]
    lengths = [inputs_of["pack"].full_tokens for inputs_of in inputs]
    return MicroBatchList(
        data=batch,
        mb_spec=spec,
        mbs=flats,
        group_lens=lengths,
        forward_indices=forward,
        backward_indices=sorted(range(len(forward)), key=forward.__getitem__),
        padded_mbs=inputs,
        padding_lengths=[0] * len(inputs),
        padded_to_lengths=lengths,
    )


def _counts(packs: int, group: dist.ProcessGroup | None) -> int:
    """The most packs that any rank of the group wants to make."""
    if group is None:
        return packs
    wanted: list[int] = [0] * dist.get_world_size(group)
    dist.all_gather_object(wanted, packs, group=group)
    return max(wanted)


def _cut(rows_of: list[list[int]], count: int) -> list[list[int]]:
    """The packs' sequences with the largest packs halved until there are `count`."""
    while len(rows_of) < count:
        largest = max(rows_of, key=len)
        if len(largest) < 2:
            raise RuntimeError(f"{len(rows_of)} sequences on this rank cannot make {count} microbatches")
        rows_of.remove(largest)
        half = len(largest) // 2
        rows_of += [largest[:half], largest[half:]]
    return sorted(rows_of)


class _Piece(NamedTuple):
    rows: list[int]  # adjacent sequences with the same prompt
    tokens: int  # their prompt once, and their completions


def _prompt_lengths(versions_BS: torch.Tensor | None, lengths_B: torch.Tensor) -> torch.Tensor:
    if versions_BS is None:
        return torch.ones_like(lengths_B)
    generated_BS = versions_BS >= 0
    first_B = generated_BS.int().argmax(-1).clamp(min=1)  # the very first token can be predicted from nothing
    return torch.where(generated_BS.any(-1), first_B, lengths_B)


def _pieces(ids_BS, lengths_B, prompts_B, max_tokens: int | None) -> list[_Piece]:
    """Neighbours of one prompt, as many as fit into a pack."""
    continues = [False, *_same_prompt_as_before(ids_BS, prompts_B).tolist()]
    pieces: list[_Piece] = []
    for row, (length, prompt) in enumerate(zip(lengths_B.tolist(), prompts_B.tolist(), strict=True)):
        grown = pieces[-1].tokens + length - prompt if continues[row] else 0
        if continues[row] and grown <= (max_tokens or MANY):
            pieces[-1] = _Piece([*pieces[-1].rows, row], grown)
        else:
            pieces.append(_Piece([row], length))
    return pieces


def _same_prompt_as_before(ids_BS: torch.Tensor, prompts_B: torch.Tensor) -> torch.Tensor:
    """For each sequence but the first, whether it has the prompt of the one before it, (B - 1,)."""
    outside_BS = torch.arange(ids_BS.shape[1], device=ids_BS.device) >= prompts_B[:, None]
    prompt_BS = ids_BS.masked_fill(outside_BS, -1)
    return (prompt_BS[1:] == prompt_BS[:-1]).all(-1)


def _by_sequence(value: Any, real_BS: torch.Tensor) -> bool:
    return torch.is_tensor(value) and value.shape[:2] == real_BS.shape


def _flat(part: dict[str, Any]) -> dict[str, Any]:
    """As areal/utils/data.py's pack_tensor_dict: (B, S, ...) -> (F, ...), with cu_seqlens in place of the mask."""
    real_BS = part["attention_mask"].bool()
    lengths_B = real_BS.sum(-1, dtype=torch.int32)
    flat = {name: value[real_BS] if _by_sequence(value, real_BS) else value for name, value in part.items()}
    del flat["attention_mask"]
    ends_B = lengths_B.cumsum(0, dtype=torch.int32)
    return flat | {"cu_seqlens": torch.nn.functional.pad(ends_B, (1, 0)), "max_seqlen": int(lengths_B.max())}


def _model_inputs(ids_BS: torch.Tensor, lengths_B: torch.Tensor, prompts_B: torch.Tensor) -> dict[str, Any]:
    """A transformers model's arguments for these sequences: input_ids and position_ids, (1, T), and the pack.

    The T tokens are those of every prompt, then those of every completion: the queries of row after row.
    """
    device = ids_BS.device
    new_B = torch.cat([torch.ones(1, dtype=torch.bool, device=device), ~_same_prompt_as_before(ids_BS, prompts_B)])
    owners_G = new_B.nonzero().squeeze(-1)  # the first sequence of every prompt
    group_B = new_B.cumsum(0) - 1
    G, B = len(owners_G), len(lengths_B)

    tokens_R = torch.cat([prompts_B[owners_G], lengths_B - prompts_B])
    starts_R = tokens_R.cumsum(0) - tokens_R
    prefix_R = torch.cat([torch.zeros_like(owners_G), prompts_B])
    prefix_starts_R = torch.cat([starts_R[:G], starts_R[:G][group_B]])
    sequence_R = torch.cat([owners_G, torch.arange(B, device=device)])

    rows, places, padded = [], [], 0
    for some in _similar(tokens_R.tolist(), prefix_R.tolist(), WASTE.get(device.type, WASTE_ON_A_CARD)):
        queries, prefix, start = tokens_R[some, None], prefix_R[some, None], starts_R[some, None]
        q_Q = torch.arange(int(queries.max()), device=device)
        k_K = torch.arange(int((prefix + queries).max()), device=device)
        keys_RK = torch.where(k_K < prefix, prefix_starts_R[some, None] + k_K, start + k_K - prefix)
        valid_RQ = q_Q < queries
        queries_RQ = (start + q_Q).where(valid_RQ, 0)
        rows.append(Rows(queries_RQ, keys_RK.where(k_K < prefix + queries, 0), prefix_R[some]))
        places.append((queries_RQ[valid_RQ], padded + valid_RQ.flatten().nonzero().squeeze(-1)))
        padded += valid_RQ.numel()
    tokens, answers = (torch.cat(parts) for parts in zip(*places, strict=True))

    q_Q = torch.arange(int(tokens_R.max()), device=device)
    valid_RQ = q_Q < tokens_R[:, None]
    position_RQ = prefix_R[:, None] + q_Q
    ids_RQ = ids_BS[sequence_R[:, None], position_RQ.clamp(max=ids_BS.shape[1] - 1)].long()
    before_BQ = (starts_R[G:, None] + q_Q - 1).where(q_Q > 0, (prefix_starts_R + prefix_R)[G:, None] - 1)
    first_places_B = lengths_B.cumsum(0) - lengths_B + prompts_B - 1
    pack = Pack(
        rows=rows,
        answers_T=torch.empty_like(answers).scatter_(0, tokens, answers),
        predictors_N=before_BQ[valid_RQ[G:]],
        labels_N=ids_RQ[G:][valid_RQ[G:]],
        places_N=(first_places_B[:, None] + q_Q)[valid_RQ[G:]],
        full_tokens=int(lengths_B.sum()),
    )
    return {
        "input_ids": ids_RQ[valid_RQ][None],
        "position_ids": position_RQ[valid_RQ][None],
        "attention_mask": None,
        "use_cache": False,
        "pack": pack,
    }


def _similar(queries_R: list[int], prefix_R: list[int], waste: int) -> list[list[int]]:
    """Rows put together for one call of attention, such that no call multiplies more than `waste` pairs for nothing."""
    together: list[list[int]] = []
    spent = longest_keys = 0
    for row in sorted(range(len(queries_R)), key=lambda row: (queries_R[row], prefix_R[row]), reverse=True):
        queries, keys = queries_R[row], prefix_R[row] + queries_R[row]
        if together:
            most_queries, most_keys = queries_R[together[-1][0]], max(longest_keys, keys)
            if (len(together[-1]) + 1) * most_queries * most_keys - spent - queries * keys <= waste:
                together[-1].append(row)
                spent, longest_keys = spent + queries * keys, most_keys
                continue
        together.append([row])
        spent, longest_keys = queries * keys, keys
    return together
