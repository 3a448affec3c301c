"""BraTS in and out: releases to nnU-Net datasets, predictions to submissions, and phantom cases of both."""
