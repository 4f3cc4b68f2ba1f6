"""Searches over settings: trials, their study, and the processes that run them."""
