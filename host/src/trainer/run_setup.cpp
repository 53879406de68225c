#include "trainer/run_setup.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <fmt/format.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <utility>

#include "data/batches.h"
#include "distributed/process_group.h"
#include "json_differences.h"
#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/text.h"
#include "trainer/run_record.h"
#include "trainer/train_options.h"

namespace outrider {
namespace fs = std::filesystem;

BaseReference base_to_refer_to(const TrainOptions& options, bool trains_base) {
  if (trains_base) {
    throw Error(ErrorCode::kInvalidArgument,
                "--save draft: this run trains the base too, and a draft is of no use without the "
                "base it was trained with",
                "use --save full, or convert with a frozen base");
  }
  auto reference = refer_to_base(options.source);
  if (options.base.empty()) return reference;
  reference.path = options.base.string();
  reference.absolute = fs::weakly_canonical(options.base).string();
  return reference;
}

Json fixed_options(const TrainOptions& options, int64_t total_steps, const CausalLM& model) {
  Json modes = Json::array();
  for (const auto& attached : model.speculative_state()) {
    modes.push_back({{"mode", attached.state.mode}, {"config", attached.state.config}});
  }
  auto fixed = reproducible_options(options);
  // The same batches, whatever the number of processes that share them.
  fixed["per_device_train_batch_size"] = options.per_device_train_batch_size * batch_parts(options);
  fixed["data"] = data_sha256(options.data);
  fixed["dtype"] = dtype_name(model.stored_dtype());
  fixed["modes"] = std::move(modes);
  fixed["max_steps"] = total_steps;
  return fixed;
}

Json environment(const CausalLM& model) {
  return {{"device", at::DeviceTypeName(model.device().type(), /*lower_case=*/true)},
          {"computing_dtype", dtype_name(model.dtype())},
          {"threads", at::get_num_threads()},
          {"libtorch", TORCH_VERSION},
          {"cpu_capability", at::get_cpu_capability()}};
}

void require_same_options(const Json& now, const Json& before, const fs::path& origin) {
  const auto problems = differences(now, before);
  if (problems.empty()) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} is from a run with other options: {}", in_quotes(origin.string()),
                          join(problems, "; ")),
              "resume with the options that the run was started with");
}

void restore_weights(CausalLM& model, const fs::path& checkpoint) {
  const auto folder = SafetensorsFolder::open(checkpoint);
  std::set<fs::path> files;
  for (const auto& [name, entry] : folder.tensors()) files.insert(entry.file->path());
  for (const auto& file : files) load_weights(model, file);
}

double device_peak_memory_mib(at::Device device) {
  using c10::CachingAllocator::StatType;
  const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return static_cast<double>(stats.reserved_bytes[static_cast<size_t>(StatType::AGGREGATE)].peak) /
         (1 << 20);
}

double peak_memory_mib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / 1024.0;
  }
  return 0;
}

}  // namespace outrider
