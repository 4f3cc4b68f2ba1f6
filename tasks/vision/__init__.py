"""Read images of digits and faces, and cut them into glimpses."""
