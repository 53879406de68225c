#include "bench/workload.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <regex>

#include "bench/workloads_json.h"
#include "outrider/error.h"
#include "outrider/host/convert.h"
#include "outrider/model/base_model_registry.h"
#include "outrider/text.h"

namespace outrider {
namespace {

constexpr uint64_t kSeed = 1234;
constexpr double kDeviation = 0.02;

const Json& workloads() {
  static const auto& json = *new Json(Json::parse(kWorkloadsJson));
  return json;
}

// Evenly spread over the base's.
at::Tensor draft_tokens(int64_t vocabulary, int64_t count) {
  return at::arange(count, at::kLong).mul(vocabulary).floor_divide(count);
}

void draw_weights(const CausalLM& model) {
  const at::NoGradGuard no_grad;
  for (const auto& item : model.named_parameters()) {
    auto& value = item.value();
    value.dim() > 1 ? value.normal_(0.0, kDeviation) : value.fill_(1.0);
  }
}

int64_t draft_vocabulary_of(const std::string& base) {
  return std::min(workloads()["draft_vocabulary"].get<int64_t>(),
                  workloads()["bases"][base]["vocab_size"].get<int64_t>() / 4);
}

}  // namespace

std::vector<std::string> workload_bases() {
  std::vector<std::string> names;
  for (const auto& [name, config] : workloads()["bases"].items()) names.push_back(name);
  return names;
}

Workload workload_of(const std::string& name) {
  static const std::regex kForm("([a-z0-9]+)-k([0-9]{1,2})-([0-9]{1,6})x([0-9]{1,4})");
  std::smatch parts;
  const auto& bases = workloads()["bases"];
  if (std::regex_match(name, parts, kForm) && bases.contains(parts[1].str())) {
    const Workload found{name,
                         parts[1],
                         std::stoll(parts[2]),
                         std::stoll(parts[3]),
                         std::stoll(parts[4]),
                         draft_vocabulary_of(parts[1])};
    if (found.steps > 0 && found.length > found.steps + 1 && found.rows > 0) return found;
  }
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("there is no workload '{}': a name is BASE-kSTEPS-LENGTHxROWS, such as "
                          "8b-k3-2048x8; bases are {}; rows are longer than the steps",
                          printable(name), join(workload_bases(), ", ")));
}

std::shared_ptr<CausalLM> make_workload_model(const Workload& workload, at::TensorOptions options) {
  const auto& draft = workloads()["draft"];
  const auto config = ModelConfig::from_json(workloads()["bases"][workload.base], workload.name);
  at::manual_seed(kSeed);
  auto model = BaseModelRegistry::instance().create(config, options);
  draw_weights(*model);
  auto draft_config = draft["config"];
  draft_config[draft["steps"].get<std::string>()] = workload.steps;
  ConvertOptions convert;
  convert.draft_vocabulary = draft_tokens(config.vocab_size, workload.draft_vocabulary);
  const std::vector<ModeRequest::Item> modes = {{draft["mode"], draft_config}};
  speculative::convert(*model, ModeRequest(modes), convert);
  return model;
}

DecodeWorkload decode_workload_of(const std::string& name) {
  static const std::regex kForm("([a-z0-9]+)-([0-9]{1,6})x([0-9]{1,4})");
  std::smatch parts;
  if (std::regex_match(name, parts, kForm) && workloads()["bases"].contains(parts[1].str())) {
    const DecodeWorkload found{name, parts[1], std::stoll(parts[2]), std::stoll(parts[3])};
    if (found.length > 0 && found.rows > 0) return found;
  }
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("there is no workload '{}': a name is BASE-LENGTHxROWS, such as 1b-128x1; "
                  "bases are {}",
                  printable(name), join(workload_bases(), ", ")));
}

std::shared_ptr<CausalLM> make_workload_model(const DecodeWorkload& workload,
                                              at::TensorOptions options) {
  constexpr int64_t kSteps = 3;
  return make_workload_model(Workload{workload.name, workload.base, kSteps, workload.length,
                                      workload.rows, draft_vocabulary_of(workload.base)},
                             options);
}

}  // namespace outrider
