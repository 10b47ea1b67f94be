"""Is a run on track: trends, bands, a verdict with its diagnosis, and the views that show them."""
