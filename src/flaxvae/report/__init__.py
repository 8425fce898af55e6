"""What a person sees of a run: figures, and lines in a terminal."""
