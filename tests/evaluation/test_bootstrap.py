"""Bootstrap intervals against what is known of them."""

import numpy as np

from nnunetv2_cfnet.evaluation.bootstrap import bootstrap_interval


def test_a_median_amid_ties_falls_back_to_percentiles():
    # Leaving out any one case leaves the median 0, so that BCa divides zero by zero.
    assert bootstrap_interval(np.array([0.0] * 9 + [-5.0]), np.median) == (0, 0)


def test_the_interval_of_a_known_sample_is_right():
    # the mean of 200 values with deviation 1 has a standard error of 1 / sqrt(200)
    values = np.random.default_rng(1).normal(0.5, 1, 200)
    low, high = bootstrap_interval(values)
    standard_error = values.std(ddof=1) / np.sqrt(200)
    np.testing.assert_allclose([low, high], values.mean() + 1.96 * standard_error * np.array([-1, 1]), atol=0.02)
