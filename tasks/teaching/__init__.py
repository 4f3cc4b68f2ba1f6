"""Run the tutorial, docs/tutorial, which is text and program, and write it as HTML: `python -m tasks tutorial`."""
