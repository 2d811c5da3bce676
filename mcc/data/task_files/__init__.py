"""Evaluation tasks whose texts `mcc data decontaminate` knows how to find, one file each."""
