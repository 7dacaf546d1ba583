"""Settings of a job that reach its effect with the least side effect and drift."""
