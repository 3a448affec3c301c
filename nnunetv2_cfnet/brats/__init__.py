"""BraTS in and out: editions, checks, releases to nnU-Net datasets, predictions to submissions."""
