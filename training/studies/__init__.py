"""Studies that train whole runs: the paper's ablation, and recommendations of new items."""
