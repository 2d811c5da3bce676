"""Checkpoints: formats, conversion between them, comparison. A format is a file of `mcc/ckpt/formats`."""
