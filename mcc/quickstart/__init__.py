"""The main job end to end: raw text in, two scored checkpoints out, with the library functions of the real commands."""
