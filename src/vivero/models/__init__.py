"""Networks; `build` is the only factory, `load` the only reader of weights."""
