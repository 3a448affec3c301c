"""Files: volumes, JSON, work on many of them in processes, and writing whole or not at all."""
