"""Starts the harness. The sandbox image keeps a copy of this file beside the package, and runs that folder."""

from htagweb_harness.boot import main

main()
