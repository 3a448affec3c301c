"""CFNet for nnU-Net: a dual-encoder, multi-modal segmentation network as an installable trainer plugin."""

__version__ = "0.1.0"
