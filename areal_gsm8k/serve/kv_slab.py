"""KV slab: the key/value cache of all running requests, one row a request, written at one common column.

Rows are aligned at their right end (left padding), so a decoding step writes every row's new key and value into the
same column, one slice assignment a layer; a joining row's prompt is copied to end at the current column. Left padding
is right for every Hugging Face model: positions travel in position_ids, sliding windows are measured in columns.

    column   0 1 2 3 4 5 6 7        planes[p]: (layers in the plane, rows, heads, columns, dim)
    row 0    . . a b c d e |        cursor = 7: the column the next token is written to
    row 1    . . . . . f g |        window = [2, 7): columns some row still needs
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache

COLUMNS = 128  # smallest width, in tokens
ROWS = 8  # smallest height, in requests


class Slab:
    """Preallocated keys and values of the running rows, with the mask of the columns each row may see.

    ``template`` is the key/value tensors of one prompt, (heads, length, dim) each, in the order key 0, value 0, key 1,
    ...: tensors of one shape share a plane, so that a row moves with one copy whatever the number of layers.
    ``additive`` says whether the mask is added to scores (0 or the lowest float) or is a boolean keep mask.
    """

    def __init__(self, template: list[torch.Tensor], additive: bool):
        shapes = [(t.shape[0], t.shape[2], t.dtype) for t in template]
        self.shapes = list(dict.fromkeys(shapes))
        self.members = [[i for i, s in enumerate(shapes) if s == shape] for shape in self.shapes]
        self.device = template[0].device
        self.mask_dtype = template[0].dtype if additive else torch.bool
        self.hidden = torch.finfo(self.mask_dtype).min if additive else False
        self.visible = 0.0 if additive else True
        self.starts: list[int] = []  # first column of each live row
        self.cursor = 0
        self._allocate(ROWS, COLUMNS)

    def _allocate(self, rows: int, columns: int) -> None:
        # Zeros, not empty: a hidden column has weight 0, and 0 x NaN would still be NaN.
        self.planes = [
            torch.zeros(len(m), rows, heads, columns, dim, dtype=dtype, device=self.device)
            for m, (heads, dim, dtype) in zip(self.members, self.shapes, strict=True)
        ]
        self.mask = torch.empty(rows, columns, dtype=self.mask_dtype, device=self.device)

    @property
    def rows(self) -> int:
        return len(self.starts)

    @property
    def window_start(self) -> int:
        return min(self.starts, default=self.cursor)

    def pack(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """One tensor a plane from one a layer: (..., heads, length, dim) -> (layers, ..., heads, length, dim)."""
        return [torch.stack([tensors[i] for i in m]) for m in self.members]

    def reserve(self, joining: int, length: int) -> None:
        """Make room for ``joining`` more rows of up to ``length`` tokens and for one more column.

        Moves the live window to the left when the slab is full, to the right when a longer prompt joins, and grows the
        slab by doubling when that is not enough.
        """
        rows, columns = self.mask.shape
        start, cursor = self.window_start, self.cursor
        width = max(cursor - start, length)
        if self.rows + joining <= rows and length <= cursor < columns:
            return
        # Free columns after a move: enough that moving costs little per token, not so many that memory is wasted.
        new_columns = columns
        if columns < width + max(COLUMNS // 2, width // 4):
            new_columns = width + max(COLUMNS, width // 2)
        new_rows = rows
        while new_rows < self.rows + joining:
            new_rows *= 2
        old, old_rows = self.planes, self.rows
        if (new_rows, new_columns) != (rows, columns):
            self._allocate(new_rows, new_columns)
        if old_rows:
            for source, plane in zip(old, self.planes, strict=True):
                window = source[:, :old_rows, :, start:cursor]
                window = window.clone() if source is plane else window
                plane[:, :old_rows, :, width - (cursor - start) : width] = window
        self.starts = [s + width - cursor for s in self.starts]
        self.cursor = width
        self._write_mask(0, self.starts)

    def _write_mask(self, first: int, starts: list[int]) -> None:
        """Rows first.. see their own columns from ``starts`` on, the ones not yet written included."""
        if not starts:
            return
        columns = torch.arange(self.mask.shape[1], device=self.device)
        before = columns[None, :] < torch.tensor(starts, device=self.device)[:, None]
        rows = self.mask[first : first + len(starts)]
        rows.fill_(self.visible).masked_fill_(before, self.hidden)

    def insert(self, prompts: list[tuple[list[torch.Tensor], int]]) -> None:
        """Append one row for each (packed keys and values of one prompt, its length).

        Neighbours with the same packed prompt (the n samples of one prompt) are written by one broadcast copy.
        """
        self.reserve(len(prompts), max(length for _, length in prompts))
        first = self.rows
        starts = [self.cursor - length for _, length in prompts]
        begin = 0
        for end in range(1, len(prompts) + 1):
            if end < len(prompts) and prompts[end][0] is prompts[begin][0]:
                continue
            packed, length = prompts[begin]
            for plane, source in zip(self.planes, packed, strict=True):
                target = plane[:, first + begin : first + end, :, self.cursor - length : self.cursor]
                target.copy_(source[:, None])
            begin = end
        self._write_mask(first, starts)
        self.starts.extend(starts)

    @torch.inference_mode()
    def remove(self, dead: list[int]) -> list[int]:
        """Drop rows; the last rows move into their places. Returns the old index of every row that stays, in order."""
        gone = set(dead)
        count = self.rows - len(gone)
        holes = [r for r in sorted(gone) if r < count]
        movers = [r for r in range(count, self.rows) if r not in gone]
        order = list(range(count))
        if holes:
            start, cursor = self.window_start, self.cursor
            target = torch.tensor(holes, device=self.device)
            source = torch.tensor(movers, device=self.device)
            for plane in self.planes:
                plane[:, target, :, start:cursor] = plane[:, source, :, start:cursor]
            self.mask[target] = self.mask[source]
            for hole, mover in zip(holes, movers, strict=True):
                order[hole] = mover
        self.starts = [self.starts[r] for r in order]
        if not count:
            self.cursor = 0
        return order

    def clear(self) -> None:
        """Forget every row, give memory back, and drop the old values (a broken model may have left NaN among them)."""
        self.starts, self.cursor = [], 0
        self._allocate(ROWS, COLUMNS)


class SlabCache(Cache):
    """The cache that a model sees during one decoding step: every row's window plus the column being written."""

    @property
    def is_compileable(self) -> bool:
        return False

    def __init__(self, slab: Slab):
        self.layers = []
        rows, start, cursor = slab.rows, slab.window_start, slab.cursor
        self.seen = cursor - start  # columns already written
        self.columns: dict[int, torch.Tensor] = {}  # where the new key or value of each layer goes
        self.windows: dict[int, torch.Tensor] = {}
        for members, plane in zip(slab.members, slab.planes, strict=True):
            window = plane[:, :rows, :, start : cursor + 1]
            for i, view, column in zip(members, window.unbind(0), window[:, :, :, -1:].unbind(0), strict=True):
                self.windows[i], self.columns[i] = view, column

    def update(self, key_states, value_states, layer_idx, cache_kwargs=None):
        key, value = 2 * layer_idx, 2 * layer_idx + 1
        self.columns[key].copy_(key_states)
        self.columns[value].copy_(value_states)
        return self.windows[key], self.windows[value]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seen

    def get_mask_sizes(self, cache_position: torch.Tensor, layer_idx: int) -> tuple[int, int]:
        return self.seen + cache_position.shape[0], 0

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        return -1

    @property
    def is_sliding(self) -> list[bool]:
        """No layer drops old columns; masks hide them."""
        return [False] * len(self)

    def __len__(self) -> int:
        return len(self.windows) // 2
