#include "trainer/same_start.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <set>
#include <string>
#include <vector>

#include "outrider/error.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/host/sha256.h"
#include "outrider/problems.h"
#include "outrider/text.h"
#include "outrider/version.h"
#include "trainer/run_record.h"
#include "trainer/train_options.h"

namespace outrider {
namespace {

std::set<const void*> tensors_of_layers(const CausalLM& model) {
  std::set<const void*> tensors;
  for (const auto& layer : model.decoder_layers()) {
    for (const auto& tensor : layer->parameters()) tensors.insert(tensor.unsafeGetTensorImpl());
  }
  return tensors;
}

/// Tells models with other weights apart at the cost of one look at each. Layers that no process
/// has alone are left out.
std::string weights_digest(const CausalLM& model, bool has_layers) {
  const auto left_out = has_layers ? std::set<const void*>() : tensors_of_layers(model);
  std::string sums;
  for (const auto& item : model.named_parameters()) {
    if (left_out.contains(item.value().unsafeGetTensorImpl())) continue;
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
  Json start = {
      {"Outrider", std::string(version())},
      {"config of the model", sha256_of(model.config().raw.dump())},
      {"weights of the model", weights_digest(model, !options.shard_base)},
      {"plugins or configs of the drafts", drafts_digest(model)},
      {"data", data_sha256(options.data)},
      {"hidden states in the data", data.has_hidden_states()},
      {"eval data", options.eval_data.empty() ? "" : data_sha256(options.eval_data)},
      {"eval prompts", options.eval_prompts.empty() ? "" : sha256_of_file(options.eval_prompts)},
      {"shard_base", options.shard_base},
      {"seed", options.seed}};
  start.update(training_schema().dump(options));
  return start;
}

}  // namespace

void require_same_start(ProcessGroup& processes, const TrainOptions& options, const CausalLM& model,
                        const TrainingData& data) {
  std::vector<Json> starts;
  for (const auto& text : processes.gather(start_of(options, model, data).dump())) {
    starts.push_back(Json::parse(text));
  }
  Problems problems;
  for (const auto& [name, value] : starts.front().items()) {
    std::vector<std::string> others;
    for (size_t i = 1; i < starts.size(); ++i) {
      if (starts[i].value(name, Json()) != value) others.push_back(std::to_string(i));
    }
    problems.add_when(!others.empty(), fmt::format("{} (process {})", name, join(others, ", ")));
  }
  problems.throw_in_a_line(ErrorCode::kInvalidArgument,
                           "the processes would not train the same; other than in process 0 are",
                           "give every process the same command and the same files");
}

}  // namespace outrider
