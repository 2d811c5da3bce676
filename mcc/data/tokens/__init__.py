"""Vocabularies, tokenizer engines, and the files of tokens."""
