"""The optimizer's side of training: what turns gradients into an update, and every figure that steers it."""
