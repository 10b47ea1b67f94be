"""Logged completions once more: their tokens recomputed, their rewards graded anew."""
