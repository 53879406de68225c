#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "generate/measurement.h"
#include "machine/claimed_folder.h"
#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider {

/// The folder of an evaluation, which can go on in it: evaluation.json (what decides the results),
/// a file in ways/ for each way that is measured, results.json and report.html. No other process
/// evaluates in it while the object lives.
class OUTRIDER_API EvaluationFolder {
 public:
  /// Makes it, or goes on in it. `options`: an object of values that decide the results; `models`:
  /// folders, whose files are hashed where they are not those that were hashed before. More models
  /// may come later. Throws kFileExists for a folder that holds something else, kInvalidArgument
  /// naming each setting that was another, kInvalidFile, kWriteFailed.
  EvaluationFolder(std::filesystem::path path, Json options,
                   const std::vector<std::filesystem::path>& models);

  /// What was measured under this key, of the first of these batches. Throws kInvalidFile.
  Measurement measured(const Json& key, const std::vector<MeasuredTokens>& batches) const;
  void keep(const Json& key, const Measurement& measurement) const;
  /// Writes results.json, without the answers, and report.html. Throws kWriteFailed.
  void write_report(Json results, bool is_finished) const;

 private:
  Json settings_before() const;
  void note_models(const std::vector<std::filesystem::path>& models, const Json& before);
  void require_same(const Json& before) const;
  std::filesystem::path file_of(const Json& key) const;

  std::filesystem::path path_;
  std::optional<ClaimedFolder> claim_;
  Json settings_;
};

}  // namespace outrider
