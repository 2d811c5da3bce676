"""What turns token files into the samples of a training run: blends, sentence pairs, masks, indices kept on disk."""
