#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "generate/decoding_way.h"
#include "generate/evaluation_folder.h"
#include "generate/evaluation_results.h"
#include "outrider/api.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// What is measured of each model.
struct EvaluationPlan {
  std::vector<int64_t> batch_sizes;
  std::vector<DraftSettings> drafts;  // of the model's draft; of prompt lookup the chains
  bool fills_batches = false;         // with prompts that are decoded more than once
};

/// A model that is evaluated.
struct EvaluatedModel {
  std::filesystem::path folder;
  std::string mode;                                 // of its first draft; empty where it has none
  MeasuredTokens prompts;                           // prompt_tokens() of its folder
  std::function<std::shared_ptr<CausalLM>()> load;  // called where something is left to measure
};

/// How far the evaluation of one model is.
struct EvaluationStep {
  std::string way;  // "eagle chain:3, batch size 4"
  size_t batch = 0, batches = 0;
  double share = 0;       // of the model's evaluation
  bool was_kept = false;  // the batch, measured before
};

/// Decodes prompts in several ways, side by side.
class OUTRIDER_API DecodingEvaluation {
 public:
  /// `options`: for all ways, but what is drafted and the stop tokens. `kept` may be null; what it
  /// has is not measured again.
  DecodingEvaluation(const std::vector<Json>& prompts, decode::DecodeOptions options,
                     EvaluationPlan plan, std::unique_ptr<EvaluationFolder> kept);

  using OnStep = std::function<void(const EvaluationStep&)>;
  /// Measures plain decoding, the model's first draft where it has one, and, of the first model
  /// that is added, prompt lookup. Throws as decoders do.
  void add(const EvaluatedModel& model, const OnStep& on_step);

  /// Of all that was added: EvaluationResults::to_json().
  Json finish() const;

 private:
  using Load = std::function<CausalLM&()>;

  std::vector<DecodingWay> ways_of(const EvaluatedModel& model, int64_t batch_size) const;
  std::vector<MeasuredTokens> batches_of(const MeasuredTokens& prompts, int64_t batch_size) const;
  Measurement kept(const Json& key, const std::vector<MeasuredTokens>& batches) const;
  void add_side_by_side(std::vector<MeasuredWay> ways, const std::vector<MeasuredTokens>& batches,
                        const Load& load, const OnStep& on_batch);
  void decode(CausalLM& model, const MeasuredTokens& batch, MeasuredWay& way);

  decode::DecodeOptions options_;
  EvaluationPlan plan_;
  std::unique_ptr<EvaluationFolder> kept_;
  EvaluationResults results_;
  bool has_lookup_ = false;
};

}  // namespace outrider
