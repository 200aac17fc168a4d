"""Word vectors: contextual and static, how they are compared, measured and written to files."""
