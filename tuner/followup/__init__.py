"""After a study: confirmations, leagues, replays and exports."""
