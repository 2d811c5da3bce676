"""Families of fine-tuning tasks, one file each."""
