"""The comparisons of the papers that `mcc` follows, run again on real data: one file a paper, found by its name."""
