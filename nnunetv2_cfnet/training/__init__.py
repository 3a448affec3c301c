"""The nnU-Net trainers, and the folder through which nnU-Net's own search finds them."""
