"""From reference and prediction to numbers: metrics of arrays, and the evaluation of folders."""
