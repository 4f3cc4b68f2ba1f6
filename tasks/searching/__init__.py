"""Search settings: the search space, trials, their study, and the processes that run them."""
