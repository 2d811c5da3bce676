"""The kinds of steps that a pipeline may have, one a file."""
