"""Train small transformers, with and without In-Place Test-Time Training: settings, model, and text."""
