"""Reports of runs: summary table, plots, comparison, report page. Everything is read from the run directory."""
