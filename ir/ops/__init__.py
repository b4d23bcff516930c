"""The op vocabulary, one chapter per file."""
