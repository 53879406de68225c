#include "data/base_check.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "checkpoint/model_tensors.h"
#include "data/batches.h"
#include "outrider/checkpoint/tensor_io.h"
#include "outrider/text.h"

namespace outrider {
namespace {

constexpr size_t kMostNamedWeights = 3;

/// The first row of [1,S,…] with a value that is not finite.
std::optional<int64_t> first_bad_row(const at::Tensor& values) {
  const auto bad = at::logical_not(at::isfinite(values)).flatten(2).any(-1).flatten().nonzero();
  if (bad.numel() == 0) return std::nullopt;
  return bad[0].item<int64_t>();
}

HiddenStateRequest everything_of(const CausalLM& model) {
  HiddenStateRequest request;
  request.layer_outputs.resize(static_cast<size_t>(model.config().num_hidden_layers));
  std::iota(request.layer_outputs.begin(), request.layer_outputs.end(), 0);
  return request;
}

/// What the base computes, in its order.
std::vector<std::pair<std::string, at::Tensor>> stages(const BaseOutputs& base, int64_t layers) {
  std::vector<std::pair<std::string, at::Tensor>> all{{"its embedding", base.input_embeddings}};
  for (const auto& [layer, hidden] : base.layer_outputs) {
    all.emplace_back(fmt::format("decoder layer {} (of 0 to {})", layer, layers - 1), hidden);
  }
  all.emplace_back("its final norm", base.last_hidden);
  all.emplace_back("its output head", base.head->logits(base.last_hidden));
  return all;
}

std::vector<std::string> bad_weights(const CausalLM& model) {
  std::vector<std::string> names;
  for (const auto& item : model.named_parameters()) {
    if (belongs_to_a_draft(model, item.key()) || at::isfinite(item.value()).all().item<bool>()) {
      continue;
    }
    names.push_back(in_quotes(item.key()));
  }
  return names;
}

std::string told(std::vector<std::string> names) {
  if (names.empty()) return {};
  const auto count = names.size();
  names.resize(std::min(count, kMostNamedWeights));
  return fmt::format("; its weights hold values that are not finite: {}{}", join(names, ", "),
                     count > kMostNamedWeights ? ", …" : "");
}

std::string advice(at::ScalarType dtype, bool has_bad_weights) {
  if (dtype == at::kHalf) {
    return fmt::format(
        "float16 ends at 65504, which this base exceeds: give --dtype bfloat16, or "
        "--dtype float32{}",
        has_bad_weights ? "; if its stored weights are not finite either, get the "
                          "base again"
                        : "");
  }
  if (has_bad_weights) return "the base is damaged or was converted wrongly: get it again";
  if (dtype == at::kBFloat16) return "give --dtype float32, or leave this conversation out";
  return "leave this conversation out, and see what another program makes of it with this base";
}

}  // namespace

std::optional<BaseFault> first_base_fault(CausalLM& model, const TokenShards& tokens,
                                          int64_t conversation, int64_t max_length) {
  const at::NoGradGuard no_grad;
  const auto input = forward_input(tokens.batch({conversation}, max_length), model.device());
  const auto base = model.run_base({.input_ids = input.batch.input_ids,
                                    .position_ids = input.batch.position_ids,
                                    .request = everything_of(model)});
  for (const auto& [place, values] : stages(base, model.config().num_hidden_layers)) {
    if (const auto row = first_bad_row(values)) return BaseFault{place, conversation, *row};
  }
  return std::nullopt;
}

Error base_fault_error(const CausalLM& model, const BaseFault& fault) {
  const auto weights = bad_weights(model);
  return Error(ErrorCode::kNonFinite,
               fmt::format("the base computes values that are not finite in {}, from {} on: "
                           "conversation {}, token {} (counted from 0){}",
                           dtype_name(model.dtype()), fault.place, fault.conversation, fault.token,
                           told(weights)),
               advice(model.dtype(), !weights.empty()));
}

}  // namespace outrider
