"""Replay of logged completions: their tokens are generated again, or their rewards computed anew."""
