"""Pages of HTML that need nothing else: a run's report, and comparisons of runs."""
