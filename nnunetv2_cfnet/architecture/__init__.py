"""The network: encoders, fusion, context and decoder, composed in cfnet.py. Imports torch and DNA, never nnunetv2."""
