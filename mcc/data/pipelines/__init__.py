"""How a declared pipeline runs: its stages, their cache, the profile and the report."""
