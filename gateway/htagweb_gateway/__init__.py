"""Who is asking, where does it go, what do they see meanwhile."""
