#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/decode/decoder.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// A prompt, and where the file has it the answer that somebody gave.
struct AnsweredPrompt {
  std::vector<int64_t> prompt, answer;
};

struct DiagnosisOptions {
  std::filesystem::path folder;  // of the model; a run's, where its metrics.jsonl is beside it
  std::vector<AnsweredPrompt> prompts;
  decode::DecodeOptions decode;  // greedy, with the request for a chain
  int64_t batch_size = 1;
};

/// One thing that can make acceptance low, and how much: what was measured, and what it means.
struct AcceptanceFinding {
  std::string name;
  Json figures;
  std::string meaning;
  /// Share of the tokens per pass that are lost to it; nothing where it cannot be measured.
  std::optional<double> loss;
};

struct AcceptanceDiagnosis {
  double acceptance_length = 1.0;
  std::vector<AcceptanceFinding> findings;
  std::string most_likely_cause;
};

/// Why the first draft of a model is accepted as it is: decodes the prompts with it and without,
/// measures its teacher-forced accuracy on the base's answers and on given ones, what its
/// vocabulary leaves out, and whether its training had ended. `mismatches`: causes that verifying
/// found. Throws as decoding does.
OUTRIDER_API AcceptanceDiagnosis diagnose_acceptance(CausalLM& model,
                                                     const DiagnosisOptions& options,
                                                     const std::vector<std::string>& mismatches);

}  // namespace outrider
