"""The console: pages for people who run the recommender, over its public HTTP API and nothing else."""
