#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "outrider/api.h"
#include "outrider/decode/decoder.h"
#include "outrider/json.h"

namespace outrider {

/// Where the time of decoding went.
struct Seconds {
  double prompts = 0.0, draft = 0.0, base = 0.0;

  double total() const { return prompts + draft + base; }
};

/// Prompts that were decoded together.
struct MeasuredBatch {
  size_t prompts = 0;
  Seconds seconds;
};

/// What decoding prompts in one way gave: answers in the order of the prompts, and batches.
struct Measurement {
  std::vector<decode::DecodedSequence> answers;
  std::vector<MeasuredBatch> batches;

  OUTRIDER_API Seconds seconds() const;
};

/// Prompts as tokens.
using MeasuredTokens = std::vector<std::vector<int64_t>>;

/// `on_batch` is called with the number of prompts that are done.
OUTRIDER_API Measurement measure(const decode::Decoder& decoder, const MeasuredTokens& prompts,
                                 const decode::DecodeOptions& options, int64_t batch_size,
                                 const std::function<void(size_t)>& on_batch = {});

/// Adds what came after it.
OUTRIDER_API void append(Measurement& measurement, const Measurement& more);

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

/// Where 95 % of the quotients of tokens per second lie, drawn as for acceptance_interval() but
/// from the batches, the same ones of both; nothing for fewer than two. Both must have decoded the
/// same prompts in the same batches.
OUTRIDER_API std::optional<Interval> speed_up_interval(const Measurement& measurement,
                                                       const Measurement& plain);

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

/// {"prompts", "draft", "base"}
OUTRIDER_API Json to_json(const Seconds& seconds);
/// {"answers", "batches": [{"prompts", "seconds"}]}
OUTRIDER_API Json to_json(const Measurement& measurement);
/// The inverse. Throws Json::exception for anything else.
OUTRIDER_API Measurement measurement_in(const Json& json);

}  // namespace outrider
