#include "verify/probe_outputs.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "verify/path_checks.h"
#include "verify/step_passes.h"

namespace outrider::verify {
namespace {

constexpr int64_t kTokens = 32, kLikeliest = 8;
constexpr int64_t kRows[] = {0, 9, 18, 24};  // whose logits are recorded

// Fixed, and spread over the vocabulary.
at::Tensor probe_tokens(const CausalLM& model) {
  const auto places = at::arange(1, kTokens + 1, at::kLong);
  return (places * 2654435761LL % 4294967291LL % model.config().vocab_size)
      .unsqueeze(0)
      .to(model.device());
}

// x [1,S,h] → S numbers.
Json sizes_of(const at::Tensor& x) {
  const auto sizes = x[0].to(at::kDouble).square().mean(-1).sqrt().to(at::kCPU);
  return std::vector<double>(sizes.const_data_ptr<double>(),
                             sizes.const_data_ptr<double>() + sizes.numel());
}

// logits [n,V'] at kRows.
Json likeliest(const at::Tensor& logits) {
  Json rows = Json::array();
  for (const int64_t row : kRows) {
    if (row >= logits.size(0)) continue;
    const auto [values, ids] =
        logits[row].to(at::kDouble).topk(std::min(kLikeliest, logits.size(1)));
    Json best = Json::array();
    for (int64_t i = 0; i < ids.size(0); ++i) {
      best.push_back({ids[i].item<int64_t>(), values[i].item<double>()});
    }
    rows.push_back({{"row", row}, {"logits", best}});
  }
  return rows;
}

HiddenStateRequest everything(const CausalLM& model) {
  auto request = model.hidden_states_needed();
  request.layer_outputs.clear();
  for (int64_t i = 0; i < model.config().num_hidden_layers; ++i) {
    request.layer_outputs.push_back(i);
  }
  request.last_hidden = request.input_embeddings = true;
  return request;
}

/// Tensors that a pass gave, under the names of the record.
struct Pass {
  explicit Pass(CausalLM& model, const std::set<std::string>& without = {}) {
    const auto ids = probe_tokens(model);
    const auto base = whole_pass(model, ids, everything(model));
    states.push_back({"embeddings", base.input_embeddings});
    for (const auto& [layer, output] : base.layer_outputs) {
      states.push_back({fmt::format("layer {}", layer), output});
    }
    states.push_back({"last_hidden", base.last_hidden});
    logits.push_back({"base", base.head->logits(base.last_hidden[0])});
    for (const auto& attached : model.speculative_state()) {
      if (without.contains(attached.state.mode)) continue;
      const auto steps = trained_steps(*attached.draft, base, ids);
      const auto count =
          steps.draws ? std::min<size_t>(1, steps.logits.size()) : steps.logits.size();
      for (size_t k = 0; k < count; ++k) {
        logits.push_back({fmt::format("{} step {}", attached.state.mode, k), steps.logits[k][0]});
      }
    }
  }

  std::vector<std::pair<std::string, at::Tensor>> states, logits;
};

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::kInvalidFile,
              fmt::format("{}: the outputs are none of this model: {}", kProbeFile, what),
              "remove the file to verify without it");
}

std::vector<double> numbers_in(const Json& recorded, const std::string& name) {
  const auto found = recorded.find(name);
  if (found == recorded.end() || !found->is_array() || found->size() != kTokens ||
      !std::ranges::all_of(*found, [](const Json& value) { return value.is_number(); })) {
    refuse(fmt::format("'{}' is no list of {} numbers", name, kTokens));
  }
  return found->get<std::vector<double>>();
}

struct Found {
  double figure = 0.0;
  int64_t row = -1;  // the first that differs
};

Found compare_sizes(const at::Tensor& x, const std::vector<double>& recorded, double tolerance) {
  const auto now = sizes_of(x).get<std::vector<double>>();
  Found found;
  for (size_t i = 0; i < now.size(); ++i) {
    const double figure = std::abs(now[i] - recorded[i]) / std::max(std::abs(recorded[i]), 1e-6);
    found.figure = std::max(found.figure, figure);
    if (!(figure <= tolerance) && found.row < 0) found.row = static_cast<int64_t>(i);
  }
  return found;
}

bool is_recorded_logit(const Json& pair, int64_t vocabulary) {
  return pair.is_array() && pair.size() == 2 && pair[0].is_number_integer() && pair[0] >= 0 &&
         pair[0] < vocabulary && pair[1].is_number();
}

void add_row(Found& found, const at::Tensor& logits, const Json& row, const std::string& name,
             double tolerance) {
  const auto number = row.is_object() ? row.value("row", Json()) : Json();
  const auto best = row.is_object() ? row.value("logits", Json()) : Json();
  if (!number.is_number_integer() || number < 0 || number >= logits.size(0) || !best.is_array() ||
      best.size() > kLikeliest) {
    refuse(fmt::format("a row of '{}'", name));
  }
  double scale = 1e-3;
  for (const auto& pair : best) {
    if (!is_recorded_logit(pair, logits.size(1))) refuse(fmt::format("a logit of '{}'", name));
    scale = std::max(scale, std::abs(pair[1].get<double>()));
  }
  for (const auto& pair : best) {
    const auto now = logits[number.get<int64_t>()][pair[0].get<int64_t>()].item<double>();
    const double figure = std::abs(now - pair[1].get<double>()) / scale;
    found.figure = std::max(found.figure, figure);
    if (!(figure <= tolerance) && found.row < 0) found.row = number.get<int64_t>();
  }
}

Found compare_logits(const at::Tensor& logits, const Json& recorded, const std::string& name,
                     double tolerance) {
  const auto rows = recorded.find(name);
  if (rows == recorded.end() || !rows->is_array() || rows->size() > std::size(kRows)) {
    refuse(fmt::format("'{}' is missing", name));
  }
  Found found;
  for (const auto& row : *rows) add_row(found, logits, row, name, tolerance);
  return found;
}

std::string cause_in_base(const std::string& name, const Found& found) {
  if (name == "embeddings") return "embeddings";
  if (name == "last_hidden") return "norms";
  return found.row > 0 ? "rope" : "weights";
}

Check differs(const std::string& name, const std::string& cause, const Found& found) {
  return {"outputs", Outcome::kDiffers, cause,
          fmt::format("{} is another than recorded, from row {} on", name, found.row),
          found.figure};
}

double tolerance_for(const CausalLM& model, const Json& recorded) {
  const auto type = recorded.value("dtype", Json());
  const bool is_single = type == "float32" || type == "float64";
  return is_single ? tolerance_of(model.dtype()) : tolerance_of(at::kHalf);
}

}  // namespace

Json outputs_of(CausalLM& model) {
  const Pass pass(model);
  Json outputs = {{"dtype", dtype_name(model.stored_dtype())}};  // what is rounded when it is saved
  for (const auto& [name, states] : pass.states) outputs[name] = sizes_of(states);
  for (const auto& [name, logits] : pass.logits) outputs[name] = likeliest(logits);
  return outputs;
}

Checks check_outputs(CausalLM& model, const Json& recorded, const std::set<std::string>& without) {
  if (!recorded.is_object()) refuse("no object");
  const double tolerance = tolerance_for(model, recorded);
  const Pass pass(model, without);
  double largest = 0.0;
  for (const auto& [name, states] : pass.states) {
    const auto found = compare_sizes(states, numbers_in(recorded, name), tolerance);
    if (found.row >= 0) return {differs(name, cause_in_base(name, found), found)};
    largest = std::max(largest, found.figure);
  }
  for (const auto& [name, logits] : pass.logits) {
    const auto found = compare_logits(logits, recorded, name, tolerance);
    const auto* cause = name == "base" ? "head" : (found.row > 0 ? "positions" : "norms");
    if (found.row >= 0) return {differs(name, cause, found)};
    largest = std::max(largest, found.figure);
  }
  return {{"outputs", Outcome::kSame, "",
           fmt::format("{} states and logits of {} tokens", pass.states.size() + pass.logits.size(),
                       kTokens),
           largest}};
}

}  // namespace outrider::verify
