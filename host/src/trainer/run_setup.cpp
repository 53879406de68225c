#include "trainer/run_setup.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/plugin_lock.h"
#include "outrider/text.h"
#include "trainer/batches.h"
#include "trainer/metrics_log.h"

namespace outrider {
namespace fs = std::filesystem;

std::vector<AdamW::Parameter> trainable_parameters(const CausalLM& model) {
  require_drafts(model);
  std::vector<AdamW::Parameter> parameters;
  std::set<const void*> seen;  // tied parameters have several names
  for (const auto& item : model.named_parameters()) {
    const auto& tensor = item.value();
    if (tensor.requires_grad() && seen.insert(tensor.unsafeGetTensorImpl()).second) {
      parameters.push_back({item.key(), tensor});
    }
  }
  if (!parameters.empty()) return parameters;
  throw Error(ErrorCode::kNotConverted, "there is nothing to train: every parameter is frozen",
              "convert the base model again");
}

bool includes_base(const std::vector<AdamW::Parameter>& parameters, const CausalLM& model) {
  const auto& drafts = model.speculative_state();
  return std::any_of(parameters.begin(), parameters.end(), [&](const auto& parameter) {
    return std::none_of(drafts.begin(), drafts.end(), [&](const auto& draft) {
      return parameter.name.starts_with(draft.attribute + ".");
    });
  });
}

Json fixed_options(const TrainOptions& options, int64_t total_steps, const CausalLM& model) {
  Json modes = Json::array();
  for (const auto& attached : model.speculative_state()) {
    modes.push_back({{"mode", attached.state.mode}, {"config", attached.state.config}});
  }
  return {{"data", sha256_of_file(options.data / "shards.json")},
          {"dtype", dtype_name(model.dtype())},
          {"modes", std::move(modes)},
          {"max_steps", total_steps},
          {"max_seconds", options.max_seconds},
          {"max_length", options.max_length},
          {"per_device_train_batch_size", options.per_device_train_batch_size},
          {"gradient_accumulation_steps", options.gradient_accumulation_steps},
          {"learning_rate", options.learning_rate},
          {"lr_scheduler_type", options.lr_scheduler_type},
          {"warmup_ratio", options.warmup_ratio},
          {"warmup_steps", options.warmup_steps},
          {"weight_decay", options.weight_decay},
          {"adam_beta1", options.adam_beta1},
          {"adam_beta2", options.adam_beta2},
          {"adam_epsilon", options.adam_epsilon},
          {"max_grad_norm", options.max_grad_norm},
          {"seed", options.seed}};
}

Json environment(at::Device device) {
  return {{"device", at::DeviceTypeName(device.type(), /*lower_case=*/true)},
          {"threads", at::get_num_threads()},
          {"libtorch", TORCH_VERSION},
          {"cpu_capability", at::get_cpu_capability()}};
}

NewRunFolder::NewRunFolder(fs::path folder) : folder_(std::move(folder)) {
  std::error_code error;
  const bool exists = fs::exists(folder_, error);
  if (exists && !(fs::is_directory(folder_, error) && fs::is_empty(folder_, error))) {
    throw Error(ErrorCode::kFileExists,
                in_quotes(folder_.string()) + " exists and is not an empty folder",
                "continue the run in it with --resume, or choose another folder");
  }
  fs::create_directories(folder_, error);
  if (!error) return;
  throw Error(ErrorCode::kWriteFailed,
              fmt::format("cannot create {}: {}", in_quotes(folder_.string()), error.message()));
}

NewRunFolder::~NewRunFolder() {
  if (kept_) return;
  std::error_code ignored;
  fs::remove(folder_ / MetricsLog::kFileName, ignored);
  fs::remove(folder_, ignored);  // where it is empty
}

void require_same_options(const Json& now, const TrainingState& saved, const fs::path& checkpoint) {
  const auto problems = differences(now, saved.options);
  if (problems.empty()) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} is from a run with other options: {}", in_quotes(checkpoint.string()),
                          join(problems, "; ")),
              "resume with the options that the run was started with");
}

void restore_weights(CausalLM& model, const fs::path& checkpoint) {
  const auto folder = SafetensorsFolder::open(checkpoint);
  std::set<fs::path> files;
  for (const auto& [name, entry] : folder.tensors()) files.insert(entry.file->path());
  for (const auto& file : files) load_weights(model, file);
}

double peak_memory_mib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / 1024.0;
  }
  return 0;
}

}  // namespace outrider
