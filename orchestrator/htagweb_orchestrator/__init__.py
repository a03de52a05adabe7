"""What runs, for whom, until when."""
