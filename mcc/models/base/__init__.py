"""What the families share: configuration, the map of names and shapes, the Transformer."""
