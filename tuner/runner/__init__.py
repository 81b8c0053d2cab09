"""A run of a study: options, plan, coordinator and summary."""
