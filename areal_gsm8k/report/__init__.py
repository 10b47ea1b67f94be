"""What a person sees of a run: live view, summary table, plots. Everything is read from the run directory."""
