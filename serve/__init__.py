"""The server: edits over HTTP, for the page, for programs, and for clients of other services."""
