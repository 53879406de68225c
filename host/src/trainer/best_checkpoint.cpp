#include "trainer/best_checkpoint.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "outrider/error.h"
#include "outrider/files/atomic_file.h"
#include "outrider/files/json_file.h"
#include "outrider/text.h"

namespace outrider {
namespace fs = std::filesystem;

BestCheckpoint::BestCheckpoint(const fs::path& run, std::string eval_data_sha256)
    : folder_(run / kFolder), eval_data_sha256_(std::move(eval_data_sha256)) {
  if (fs::exists(folder_ / kRecordFile)) read();
}

void BestCheckpoint::read() {
  const auto file = folder_ / kRecordFile;
  const auto json = read_json_file(file);
  const auto is = [&](const char* key, bool (Json::*is_type)() const noexcept) {
    return json.contains(key) && (json[key].*is_type)();
  };
  if (!json.is_object() || !is("step", &Json::is_number_unsigned) ||
      !is("loss", &Json::is_number) || !is("eval_data", &Json::is_string)) {
    throw Error(ErrorCode::kInvalidFile,
                fmt::format("{}: 'step', 'loss' or 'eval_data' is missing or of a wrong type",
                            in_quotes(file.string())),
                "delete or move this folder, and the next evaluation chooses a best anew");
  }
  if (json["eval_data"] != eval_data_sha256_) return;
  step_ = json["step"].get<int64_t>();
  loss_ = json["loss"].get<double>();
}

bool BestCheckpoint::is_beaten_by(const Evaluation& evaluation) const {
  return evaluation.loss() < loss_;  // false for NaN
}

void BestCheckpoint::replace(int64_t step, double epoch, const Evaluation& evaluation,
                             const std::function<void(const fs::path&)>& write) {
  const auto loss = evaluation.loss();
  AtomicDirectory folder(folder_, /*replace=*/true);
  write(folder.staging());
  write_json_file(folder.staging() / kRecordFile, {{"step", step},
                                                   {"loss", loss},
                                                   {"epoch", epoch},
                                                   {"eval_data", eval_data_sha256_},
                                                   {"eval", evaluation.to_json()}});
  folder.commit();
  step_ = step;
  loss_ = loss;
}

Json BestCheckpoint::summary() const {
  if (!std::isfinite(loss_)) return nullptr;
  return {{"folder", folder_.string()}, {"step", step_}, {"loss", loss_}};
}

}  // namespace outrider
