"""Machine: from a fused group to loops, to LLVM text, to an object."""
