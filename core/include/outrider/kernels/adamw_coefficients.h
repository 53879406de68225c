#pragma once

namespace outrider {

struct AdamWCoefficients {
  double learning_rate, beta1, beta2, epsilon, weight_decay;
};

}  // namespace outrider
