"""What htagweb costs, measured beside what else one could take. `python -m benchmarks` says what there is."""
