"""Where groups of trials are trained; not how."""
