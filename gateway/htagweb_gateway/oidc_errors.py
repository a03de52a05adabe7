"""How signing in at a provider fails. Apart from `oidc`, which takes a while to import."""

from __future__ import annotations


class ProviderFailed(Exception):
    """It doesn't answer, or makes no sense. The text is for the log."""


class SignInFailed(Exception):
    """It answered, and nobody is signed in by that. The text is for the log."""
