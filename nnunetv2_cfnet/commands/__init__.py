"""The commands of `nnunetv2_cfnet`: each module has its DESCRIPTION, adds its flags, and runs it."""
