"""Look, and touch nothing: each probe fills one section of the snapshot."""
