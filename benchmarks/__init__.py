"""Side-by-side timings: flaxvae, PyTorch and plain flax on the same networks. See __main__."""
