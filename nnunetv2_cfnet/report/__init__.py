"""Models side by side: costs, statistics, figures and the report."""
