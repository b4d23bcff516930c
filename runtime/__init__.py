"""Running: artifacts, threads, memory and dispatch; knows bytes and imports no other room."""
