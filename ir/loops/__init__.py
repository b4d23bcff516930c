"""The language of kernels: loop nests over buffers and vector registers."""
