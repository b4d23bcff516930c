"""From an op's structure to its naive loop nest."""
