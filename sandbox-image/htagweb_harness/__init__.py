"""The program in a sandbox that runs one user's htag app. Imports nothing of the platform's other parts."""
