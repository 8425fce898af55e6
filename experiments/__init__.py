"""Studies: each file's docstring gives its command, its minutes, and what it shows."""
