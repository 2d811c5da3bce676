"""Training: the engine, its parallel parts, and compression of what they send."""
