"""The files of a run: its folder, sample records, checkpoints, recovery points and environment."""
