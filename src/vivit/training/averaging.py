"""The average of the weights over the steps, to keep in place of the last ones."""

import torch
from torch import Tensor, nn


class WeightAverage:
    """The exponential moving average of the weights that are trained.

    It starts as the weights are. To forget them soon, the decay grows: after n steps it is (1 + n) / (10 + n), up to
    the one given (TensorFlow: `ExponentialMovingAverage` with `num_updates`), so that the average reaches back over
    about a tenth of the steps so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """
        Args:
            model: on its device; where its parameters are sharded, after that, and the average is sharded alike.
            decay: what stays of the average at each update, from 0 to below 1.
        """
        self.decay = decay
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.state: dict[str, Tensor] = {name: weight.detach().clone() for name, weight in self._weights.items()}
        """Parameter → its average, float32; all that a resumed run has to restore."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are now, after a step of the optimiser; `step` counts those before it."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [self.state[name] for name in self._weights]
        torch._foreach_lerp_(averages, list(self._weights.values()), 1 - decay)
