"""Says which machines raise a rule's question: what `@rule(…, when=…)` takes."""
