"""What the user says: tracing, transforms, jit, the command line and the one driver."""
