"""Compression of the traffic of model-parallel training: codecs, the sites they serve, and the bytes they send."""
