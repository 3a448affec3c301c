"""nnU-Net's commands as jobs: shown, logged, resumed; and the benchmark, which is made of them."""
