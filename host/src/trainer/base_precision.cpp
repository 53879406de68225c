#include "trainer/base_precision.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "data/batches.h"
#include "outrider/error.h"
#include "outrider/nn/fp8_product.h"

namespace outrider {
namespace {

constexpr int64_t kMostConversations = 8;
constexpr int64_t kRowsAtOnce = 512;  // whose logits exist at a time

/// What the head reads for each conversation, [tokens,h].
std::vector<at::Tensor> last_hidden(CausalLM& model, const TrainingData& data,
                                    const std::vector<int64_t>& conversations, int64_t max_length) {
  std::vector<at::Tensor> all;
  for (const auto i : conversations) {
    const auto batch = data.batch({{i}}, max_length).forward.batch;
    const auto base = model.run_base({.input_ids = batch.input_ids, .request = {}});
    all.push_back(base.last_hidden.squeeze(0));
  }
  return all;
}

std::vector<nn::Linear*> linears_of(const torch::nn::Module& layer) {
  std::vector<nn::Linear*> linears;
  for (const auto& module : layer.modules()) {
    if (auto* linear = module->as<nn::Linear>()) linears.push_back(linear);
  }
  return linears;
}

void compare(const LmHead& head, const at::Tensor& before, const at::Tensor& after,
             TeacherCost& cost) {
  for (int64_t begin = 0; begin < before.size(0); begin += kRowsAtOnce) {
    const auto logits = [&](const at::Tensor& rows) {
      return head.logits(rows.slice(0, begin, begin + kRowsAtOnce)).to(at::kFloat);
    };
    const auto log_p = at::log_softmax(logits(before), -1);
    const auto log_q = at::log_softmax(logits(after), -1);
    cost.divergence += (log_p.exp() * (log_p - log_q)).sum(at::kDouble).item<double>();
    cost.agreement += log_p.argmax(-1).eq(log_q.argmax(-1)).sum(at::kDouble).item<double>();
  }
}

}  // namespace

void multiply_in_eight_bits(const CausalLM& model) {
  const auto input = std::make_shared<nn::Fp8Input>();
  size_t count = 0;
  for (const auto& layer : model.decoder_layers()) {
    const auto linears = linears_of(*layer);
    for (auto* linear : linears) {
      // The rows that the last one reads, an MLP's, are its alone, and the widest.
      linear->replace_product(std::make_shared<nn::Fp8Product>(
          linear->weight, linear->bias, linear == linears.back() ? nullptr : input));
      linear->release_weight();
    }
    count += linears.size();
  }
  if (count > 0) return;
  throw Error(ErrorCode::kUnsupported,
              model.config().architecture + " has no decoder layers with products to lower",
              "train without --base-precision fp8");
}

Json TeacherCost::to_json() const {
  return {{"conversations", conversations},
          {"tokens", tokens},
          {"divergence", divergence},
          {"agreement", agreement}};
}

std::string TeacherCost::note() const {
  return fmt::format(
      "note: in eight-bit floats the base differs from itself by {:.4f} nats a token and has the "
      "same first choice at {:.1f} % of {} tokens ({} conversations)",
      divergence, 100 * agreement, tokens, conversations);
}

TeacherCost lower_base_precision(CausalLM& model, const TrainingData& data, int64_t max_length) {
  if (!model.has_edit(BaseEdit::kFreezeParameters) || data.has_hidden_states()) {
    throw Error(ErrorCode::kUnsupported,
                "--base-precision fp8 needs a base that runs and is not trained itself",
                "train without it, or convert with a frozen base");
  }
  const at::NoGradGuard no_grad;
  auto conversations = select_conversations(data.tokens(), model, max_length).conversations;
  conversations.resize(std::min(conversations.size(), static_cast<size_t>(kMostConversations)));
  const auto before = last_hidden(model, data, conversations, max_length);
  multiply_in_eight_bits(model);
  // What the weights took is in pieces that activations would not fit into.
  if (!model.device().is_cpu()) c10::getDeviceAllocator(model.device().type())->emptyCache();
  const auto after = last_hidden(model, data, conversations, max_length);
  TeacherCost cost{.conversations = static_cast<int64_t>(conversations.size())};
  for (size_t i = 0; i < before.size(); ++i) {
    compare(model.head(), before[i], after[i], cost);
    cost.tokens += before[i].size(0);
  }
  cost.divergence /= static_cast<double>(cost.tokens);
  cost.agreement /= static_cast<double>(cost.tokens);
  return cost;
}

}  // namespace outrider
