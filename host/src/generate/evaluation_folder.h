#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "generate/measurement.h"
#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// SHA-256 over the files that make a folder's model: config, state, weights. Reads them all.
OUTRIDER_API std::string model_sha256(const std::filesystem::path& folder);

/// The folder of an evaluation, which can go on in it: evaluation.json (what decides the results),
/// a file in ways/ for each way that is measured, results.json and report.html.
class OUTRIDER_API EvaluationFolder {
 public:
  /// Makes it, or goes on in it. `settings`: {"options", "models"}, objects of values; models may
  /// be added later. Throws kFileExists for a folder that holds something else, kInvalidArgument
  /// naming each setting that was another, kInvalidFile, kWriteFailed.
  EvaluationFolder(std::filesystem::path path, Json settings);

  /// What was measured under this key, of the first of these batches. Throws kInvalidFile.
  Measurement measured(const Json& key, const std::vector<MeasuredTokens>& batches) const;
  void keep(const Json& key, const Measurement& measurement) const;
  /// Writes results.json, without the answers, and report.html. Throws kWriteFailed.
  void write_report(Json results, bool is_finished) const;

 private:
  void take_up(const Json& before);
  std::filesystem::path file_of(const Json& key) const;

  std::filesystem::path path_;
  Json settings_;
};

}  // namespace outrider
