#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "outrider/api.h"
#include "outrider/decode/decoder.h"
#include "outrider/json.h"

namespace outrider {

/// What decoding prompts in one way gave: answers in the order of the prompts, and where time went.
struct Measurement {
  std::vector<decode::DecodedSequence> answers;
  double prompt_seconds = 0.0, draft_seconds = 0.0, base_seconds = 0.0;

  double seconds() const { return prompt_seconds + draft_seconds + base_seconds; }
};

using MeasuredTokens = std::vector<std::vector<int64_t>>;

/// `on_batch` is called with the number of prompts that are done.
OUTRIDER_API Measurement measure(const decode::Decoder& decoder, const MeasuredTokens& prompts,
                                 const decode::DecodeOptions& options, int64_t batch_size,
                                 const std::function<void(size_t)>& on_batch = {});

OUTRIDER_API size_t new_tokens(const Measurement& measurement);
OUTRIDER_API double tokens_per_second(const Measurement& measurement);

/// Of these answers together: tokens per pass of the base, as DecodedSequence::acceptance_length().
OUTRIDER_API double acceptance_length(const std::vector<decode::DecodedSequence>& answers);

/// Of the rounds that had a drafted token at position 1, 2, …: the share in which it was accepted.
OUTRIDER_API std::vector<double> acceptance_by_position(
    const std::vector<decode::DecodedSequence>& answers);

struct Interval {
  double low, high;
};

/// Where 95 % of the acceptance lengths lie that as many answers have, drawn from these with
/// repetition (the percentile bootstrap, 2,000 times with a fixed seed).
OUTRIDER_API Interval acceptance_interval(const std::vector<decode::DecodedSequence>& answers);

/// What answers say of the draft that they were decoded with.
struct Acceptance {
  double length = 1.0;
  Interval interval{1.0, 1.0};
  std::vector<double> by_position;
};

OUTRIDER_API Acceptance acceptance_of(const std::vector<decode::DecodedSequence>& answers);
/// {"acceptance_length", "interval", "acceptance_by_position"}
OUTRIDER_API Json to_json(const Acceptance& acceptance);

/// The inverse. Throws Json::exception for anything else.
OUTRIDER_API Acceptance acceptance_in(const Json& json);

/// {"token_ids", "rounds", "drafted", "accepted", "stopped"}
OUTRIDER_API Json to_json(const decode::DecodedSequence& answer);
/// The inverse. Throws Json::exception for anything else.
OUTRIDER_API decode::DecodedSequence answer_in(const Json& json);

}  // namespace outrider
