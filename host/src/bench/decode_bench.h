#pragma once

#include <cstdint>
#include <string>

#include "bench/workload.h"
#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

struct DecodeBenchOptions {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
  int64_t new_tokens = 256, repeats = 5;
};

/// How fast decoding is here: plainly, tokens/s (median, least, most of all sequences together) and
/// the share of the limit, which is the time to read the weights once and the keys and values that
/// are kept, at the rate of a large copy measured in this process; and for ways of drafting what a
/// round costs, with the acceptance length from which it pays. The draft has random weights: what
/// would be accepted of a trained one is not known here. Throws as the decoder does.
OUTRIDER_API Json bench_decoding(const DecodeWorkload& workload, const DecodeBenchOptions& options);

}  // namespace outrider
