"""What the instructions of each machine mean and how they are emitted."""
