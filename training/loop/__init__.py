"""Parts of every training loop: batches, devices, optimisers, checkpoints, processes, progress."""
