"""From an nnU-Net plan and a dataset's channel names to the arguments of CFNet."""
