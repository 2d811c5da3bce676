"""One Transformer; one file a family, each with its declarative map of names and shapes."""
