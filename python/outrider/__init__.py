"""Outrider's Python side: `outrider.text` reads conversations and renders chat templates."""
