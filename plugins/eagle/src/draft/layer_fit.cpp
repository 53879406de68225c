#include "layer_fit.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <string>

#include "outrider/error.h"

namespace outrider::eagle {
namespace {

const std::string kLayer = "layers.0.";

at::Tensor rows_of(const at::Tensor& x) { return x.flatten(0, -2); }

at::Tensor parameter(const torch::nn::Module& module, const std::string& name) {
  return module.named_parameters()[name];
}

at::Tensor bias_of(const torch::nn::Module& module, const std::string& product) {
  const auto parameters = module.named_parameters();
  const auto* bias = parameters.find(product + ".bias");
  return bias ? *bias : at::Tensor();
}

bool is_the_bases(const EagleDraft& draft, const BaseView& base, const std::string& name) {
  const auto last = fmt::format("model.layers.{}.{}", base.config().num_hidden_layers - 1, name);
  const auto own = parameter(draft, kLayer + name), theirs = base.parameter(last);
  return theirs.defined() && theirs.sizes() == own.sizes() && at::equal(theirs, own);
}

}  // namespace

LayerFit::LayerFit(EagleDraft& draft, const BaseView& base)
    : draft_(draft),
      layer_(draft.decoder().layer(0)),
      layers_(draft.settings().aux_layer_ids),
      before_last_(base.config().num_hidden_layers - 2) {
  if (before_last_ >= 0 && is_the_bases(draft, base, "mlp.down_proj.weight") &&
      is_the_bases(draft, base, "mlp.gate_proj.weight")) {
    return;
  }
  throw Error(ErrorCode::kInvalidArgument,
              "a fit replaces what a draft starts from, and this one was trained already, or its "
              "layer has another shape than the base's",
              "train it without --fit-tokens, or convert the base again");
}

HiddenStateRequest LayerFit::hidden_states_needed() const {
  auto request = draft_.hidden_states_needed();
  request.layer_outputs.push_back(before_last_);
  request.last_hidden = false;
  request.last_hidden_prenorm = true;
  return request;
}

void LayerFit::add(const BaseOutputs& base, const TrainBatch& batch) {
  const auto here = [](const at::Tensor& x) { return x.slice(1, 0, -1); };
  const auto next = [](const at::Tensor& x) { return x.slice(1, 1); };
  Sequence sequence;
  for (const int64_t layer : layers_) sequence.read.push_back(here(base.layer_outputs.at(layer)));
  sequence.embeddings = next(draft_.decoder().embeddings(base, batch));
  sequence.state = here(base.last_hidden_prenorm);
  sequence.next_input = next(base.layer_outputs.at(before_last_));
  sequence.next_state = next(base.last_hidden_prenorm);
  if (sequence.embeddings.size(1) > 0) sequences_.push_back(std::move(sequence));
}

void LayerFit::fit(const std::string& product, const Rows& read, const Rows& wanted) const {
  auto weight = parameter(draft_, product + ".weight");
  const auto bias = bias_of(draft_, product);
  ops::RidgeRegression regression(weight.size(1), weight.size(0), weight.device());
  for (const auto& sequence : sequences_) {
    const auto target = wanted(sequence);
    regression.add(rows_of(read(sequence)), rows_of(bias.defined() ? target - bias : target));
  }
  weight.copy_(regression.solution());
}

at::Tensor LayerFit::start(const Sequence& sequence) const {
  return at::linear(at::cat(sequence.read, -1), parameter(draft_, "fc.weight"));
}

at::Tensor LayerFit::residual(const Sequence& sequence) const {
  const auto hidden = start(sequence);
  return layer_.residual(hidden, sequence.embeddings,
                         draft_.decoder().rotary(hidden.size(1), hidden));
}

// Until now their right halves are the base's, which give its own where its last layer's input is
// read.
void LayerFit::fit_projections() {
  const int64_t h = draft_.settings().architecture.hidden_size;
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
    const auto product = fmt::format("{}self_attn.{}", kLayer, name);
    const auto of_base = parameter(draft_, product + ".weight").slice(1, h).clone();
    const auto bias = bias_of(draft_, product);
    fit(
        product, [&](const Sequence& s) { return layer_.projections_read(start(s), s.embeddings); },
        [&](const Sequence& s) {
          const auto normed = layer_.projections_read(s.next_input, s.embeddings).slice(-1, h);
          return at::linear(normed, of_base, bias);
        });
  }
}

void LayerFit::finish() {
  if (sequences_.empty()) return;
  const auto rotary = [&](const at::Tensor& like) {
    return draft_.decoder().rotary(like.size(1), like);
  };
  fit(
      "fc", [](const Sequence& s) { return at::cat(s.read, -1); },
      [](const Sequence& s) { return s.state; });
  fit_projections();
  fit(
      kLayer + "self_attn.o_proj",
      [&](const Sequence& s) {
        const auto hidden = start(s);
        return layer_.output_reads(hidden, s.embeddings, rotary(hidden));
      },
      [&](const Sequence& s) { return s.next_input - layer_.carried(start(s), s.embeddings); });
  fit(
      kLayer + "mlp.down_proj", [&](const Sequence& s) { return layer_.down_reads(residual(s)); },
      [&](const Sequence& s) { return s.next_state - residual(s); });
}

}  // namespace outrider::eagle
