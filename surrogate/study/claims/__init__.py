"""The experiments, a file for each family; each file lists its claims in CLAIMS."""
