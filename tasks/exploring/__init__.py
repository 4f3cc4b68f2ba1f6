"""Show a trained network in the browser, step by step: python -m tasks explore RUN."""
