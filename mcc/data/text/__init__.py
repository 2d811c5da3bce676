"""What is known about a text: its language, its encoding's history, its sentences."""
