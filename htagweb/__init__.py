"""What a user of the platform imports and types. The `htagweb` command is in `htagweb.cli`."""
