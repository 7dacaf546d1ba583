"""What listens to a run, in any host: the console, the history, trackers."""
