"""How unusual an image is to a model: scores, what they are compared with, and what they detect."""
