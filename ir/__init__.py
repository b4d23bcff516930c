"""Facts: what operations mean, and the three languages (graph, loops, program) that carry them."""
