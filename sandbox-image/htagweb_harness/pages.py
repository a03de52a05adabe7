"""What the harness adds to an app's page, and the page that stands in for one that failed."""

from __future__ import annotations

import html
import re

FILES_HINT = "Files can only be written below /tmp, and are lost when the app ends."


def with_live_script(page: str, app: str, base: str = "") -> str:
    """The page with the platform's script as the first thing in its head: before any script of the app.

    `base` is where the app's own addresses begin, where that isn't the page's address."""
    where = f' data-base="{html.escape(base)}"' if base else ""
    script = f'<script src="/-/live.js" data-app="{html.escape(app)}"{where}></script>'
    found = re.search(r"<head(\s[^>]*)?>", page, re.IGNORECASE)
    if found is None:
        return script + page
    return page[: found.end()] + script + page[found.end() :]


def error_page(app: str, text: str, traceback: str = "", base: str = "") -> str:
    """For a page that could not be rendered. `traceback` is shown where the operator develops."""
    detail = f'<pre tabindex="0">{html.escape(traceback)}</pre>' if traceback else ""
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Something went wrong</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="stylesheet" href="/-/style.css"></head>'
        "<body><main><h1>Something went wrong in this app</h1>"
        f'<p class="lead">{html.escape(text)}</p>{detail}'
        f'<p><a class="button" href="{"" if base else "./"}">Try again</a></p></main></body></html>'
    )
    return with_live_script(page, app, base)
