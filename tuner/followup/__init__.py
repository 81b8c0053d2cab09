"""Work on finished studies: confirmations, leagues, replays and exports."""
