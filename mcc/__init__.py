"""mcc: from raw text to a scored checkpoint, with model-parallel training that is cheap on the wire."""

__version__ = "0.1.0"
