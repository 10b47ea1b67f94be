"""What a run leaves on disk: its folder, sample records, checkpoints, recovery points and environment."""
