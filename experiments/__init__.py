"""Studies: the docstring of each file says what it shows."""
