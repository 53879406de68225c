#pragma once

#include <string>
#include <vector>

#include "generate/decoding_way.h"
#include "generate/measurement.h"
#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// What decoding prompts in one way gave. Prompts may have been repeated to fill a batch.
struct MeasuredWay {
  std::string model;    // the folder
  std::string drafter;  // its draft's mode, "prompt-lookup" or "none"
  DecodingWay way;
  Measurement measured;
};

/// Ways to decode the same prompts, side by side.
class OUTRIDER_API EvaluationResults {
 public:
  /// The category of each prompt, empty where it has none.
  explicit EvaluationResults(std::vector<std::string> categories)
      : categories_(std::move(categories)) {}

  void add(MeasuredWay way) { ways_.push_back(std::move(way)); }

  /// {"prompts", "ways", "fastest"}: docs/decoding.md says what is in them. "fastest" has the way
  /// with the highest speed for each model and batch size: plain decoding, unless one is faster.
  Json to_json() const;

 private:
  const MeasuredWay& plain_of(const MeasuredWay& way) const;
  double speed_up(const MeasuredWay& way) const;
  void add_speed_up(Json& json, const MeasuredWay& way) const;
  Json described(const MeasuredWay& way) const;
  Json by_category(const std::vector<decode::DecodedSequence>& answers) const;
  Json fastest() const;

  std::vector<std::string> categories_;
  std::vector<MeasuredWay> ways_;
};

}  // namespace outrider
