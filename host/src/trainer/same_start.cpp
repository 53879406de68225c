#include "trainer/same_start.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <string>
#include <vector>

#include "outrider/error.h"
#include "outrider/host/mode_registry.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/host/sha256.h"
#include "outrider/problems.h"
#include "outrider/text.h"
#include "outrider/version.h"
#include "trainer/run_record.h"
#include "trainer/train_options.h"

namespace outrider {
namespace {

/// Tells models with other weights apart at the cost of one look at each.
std::string weights_digest(const CausalLM& model) {
  std::string sums;
  for (const auto& item : model.named_parameters()) {
    const auto sum = item.value().detach().sum(at::kDouble).item<double>();
    sums += fmt::format("{} {}\n", item.key(), sum);
  }
  return sha256_of(sums);
}

std::string drafts_digest(const CausalLM& model) {
  std::string drafts;
  for (const auto& attached : model.speculative_state()) {
    const auto& plugin = mode_registry().get(attached.state.mode).plugin;
    drafts += attached.state.mode + plugin.sha256 + attached.state.config.dump();
  }
  return sha256_of(drafts);
}

Json start_of(const TrainOptions& options, const CausalLM& model, const TrainingData& data) {
  Json start = {{"Outrider", std::string(version())},
                {"config of the model", sha256_of(model.config().raw.dump())},
                {"weights of the model", weights_digest(model)},
                {"plugins or configs of the drafts", drafts_digest(model)},
                {"data", data_sha256(options.data)},
                {"hidden states in the data", data.has_hidden_states()},
                {"seed", options.seed}};
  start.update(training_schema().dump(options));
  return start;
}

}  // namespace

void require_same_start(ProcessGroup& processes, const TrainOptions& options, const CausalLM& model,
                        const TrainingData& data) {
  const auto starts = processes.gather(start_of(options, model, data).dump());
  const auto first = Json::parse(starts.front());
  Problems problems;
  for (const auto& [name, value] : first.items()) {
    std::vector<std::string> others;
    for (size_t i = 1; i < starts.size(); ++i) {
      if (Json::parse(starts[i]).value(name, Json()) != value) others.push_back(std::to_string(i));
    }
    problems.add_when(!others.empty(), fmt::format("{} (process {})", name, join(others, ", ")));
  }
  problems.throw_in_a_line(ErrorCode::kInvalidArgument,
                           "the processes would not train the same; other than in process 0 are",
                           "give every process the same command and the same files");
}

}  // namespace outrider
