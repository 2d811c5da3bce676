"""Deduplication in the three steps of Megatron-LM's tools/openwebtext, reading and writing their files.

`find` writes lines `{main: [{other: similarity}, ...]}`, `group` joins what is similar to lines `{"i": [name, ...]}`,
`remove` keeps the first of each group. Unlike the scripts, `find` compares with the first document of a bucket, not
with one drawn at random, and lists in the order of the input, so that the document that stays is the earliest.
"""
