"""Studies on top of whole runs: the ablation of the paper, and items that came after training."""
