"""Images and what is read from them: digits, faces, glimpses."""
