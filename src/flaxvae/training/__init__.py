"""How a model learns: devices, the compiled step, the loop, the run folder."""
