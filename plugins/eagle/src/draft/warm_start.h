#pragma once

#include "outrider/model/causal_lm.h"

namespace outrider::eagle {

/// Copies from the base what the draft has a place for: the final norm, the embedding, and the last
/// decoder layers where their shapes fit; fc starts by passing the highest of the layers that are
/// read. Of a first layer that reads [e ; g], the half for g gets the base's projections. What does
/// not fit keeps its random values. Call under no_grad.
void warm_start(torch::nn::Module& draft, const BaseView& base);

}  // namespace outrider::eagle
