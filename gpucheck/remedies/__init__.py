"""What rules advise, built from the machine's facts: packages, variables, drivers."""
