#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>

#include "outrider/api.h"
#include "outrider/host/held_out.h"
#include "outrider/json.h"

namespace outrider {

/// `RUN/best`: the model folder with the lowest held-out loss of a run, and `best.json` in it:
/// {"step", "loss", "epoch", "eval_data" (SHA-256 of its shards.json), "eval"}. It is replaced as a
/// whole or not at all, and no limit on checkpoints removes it.
class OUTRIDER_API BestCheckpoint {
 public:
  static constexpr const char* kFolder = "best";
  static constexpr const char* kRecordFile = "best.json";

  /// Continues from what `run` holds. A best that was chosen on other held-out data cannot be
  /// compared and counts as none. Throws kInvalidFile.
  BestCheckpoint(const std::filesystem::path& run, std::string eval_data_sha256);

  /// Whether this evaluation is better than all before; one that is not a number never is.
  bool is_beaten_by(const Evaluation& evaluation) const;

  /// Makes what `write` puts into the folder it is given the best.
  void replace(int64_t step, double epoch, const Evaluation& evaluation,
               const std::function<void(const std::filesystem::path&)>& write);

  /// {"folder", "step", "loss"}; null where there is none.
  Json summary() const;

 private:
  void read();

  std::filesystem::path folder_;
  std::string eval_data_sha256_;
  int64_t step_ = 0;
  double loss_ = std::numeric_limits<double>::infinity();
};

}  // namespace outrider
