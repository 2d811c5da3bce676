"""What `mcc data get` knows and how it loads it."""
