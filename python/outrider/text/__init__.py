"""Outrider's text tools: tokenizers and chat templates through Hugging Face's libraries."""
