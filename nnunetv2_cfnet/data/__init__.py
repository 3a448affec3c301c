"""Datasets in nnU-Net's raw format: for now a synthetic multi-modal phantom."""
