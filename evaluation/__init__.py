"""Realism and faithfulness of edits: metrics, held-out views, and studies on them."""
