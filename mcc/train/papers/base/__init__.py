"""What the papers' comparisons share."""
