"""Objectives: what the last stage's output is measured by. One file each."""
