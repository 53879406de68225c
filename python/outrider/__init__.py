"""Outrider: speculative-decoding drafts for language models.

`outrider.speculative` attaches drafts to Hugging Face models and `outrider.opt` saves and restores
them; both need torch. `outrider.text` reads conversations and renders chat templates.
"""

from outrider.errors import OutriderError

__all__ = ["OutriderError"]
