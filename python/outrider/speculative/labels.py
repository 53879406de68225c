"""Which convention a batch's labels follow."""

import torch

from outrider.errors import OutriderError

IGNORED = -100


def are_unshifted(input_ids: torch.Tensor, labels: torch.Tensor) -> bool:
    """True where labels[t] is token t or -100, as collators of transformers write them; False where
    it is token t+1, as ModelOpt's does. Raises OutriderError (InvalidData) for neither."""
    same = (labels == input_ids) | (labels == IGNORED)
    if bool(same.all()):
        return True
    following = (labels[:, :-1] == input_ids[:, 1:]) | (labels[:, :-1] == IGNORED)
    if bool(following.all()):
        return False
    raise OutriderError(
        "labels are neither the tokens of input_ids nor those that follow them", "InvalidData",
        "give labels[t] = input_ids[t] (or input_ids[t+1]) where a token is trained on, else -100")
