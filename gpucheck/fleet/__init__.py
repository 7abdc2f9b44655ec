"""Many machines: reading their snapshots, judging each, and finding the nodes that differ."""
