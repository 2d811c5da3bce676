"""How near-duplicates are found: shingles, sketches, candidates, exact comparison."""
