#include "layer_fit.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <numeric>
#include <string>

#include "outrider/error.h"

namespace outrider::eagle {
namespace {

const std::string kLayer = "layers.0.";

at::Tensor rows_of(const at::Tensor& x) { return x.flatten(0, -2); }

// Undefined where there is none.
at::Tensor parameter(const torch::nn::Module& module, const std::string& name) {
  const auto parameters = module.named_parameters();
  const auto* found = parameters.find(name);
  return found ? *found : at::Tensor();
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

void LayerFit::fit(const std::vector<std::string>& products, const Examples& examples) const {
  std::vector<at::Tensor> weights;
  std::vector<int64_t> outputs;
  for (const auto& product : products) {
    weights.push_back(parameter(draft_, product + ".weight"));
    outputs.push_back(weights.back().size(0));
  }
  const auto& first = weights.front();
  ops::RidgeRegression regression(first.size(1), std::reduce(outputs.begin(), outputs.end()),
                                  first.device());
  for (const auto& sequence : sequences_) {
    const auto [read, wanted] = examples(sequence);
    regression.add(rows_of(read), rows_of(wanted));
  }
  const auto solved = regression.solution().split_with_sizes(outputs);
  for (size_t i = 0; i < weights.size(); ++i) weights[i].copy_(solved[i]);
}

at::Tensor LayerFit::without_bias(const at::Tensor& wanted, const std::string& product) const {
  const auto bias = parameter(draft_, product + ".bias");
  return bias.defined() ? wanted - bias : wanted;
}

at::Tensor LayerFit::start(const Sequence& sequence) const {
  return at::linear(at::cat(sequence.read, -1), parameter(draft_, "fc.weight"));
}

EagleLayer::Attended LayerFit::attended(const Sequence& sequence) const {
  const auto hidden = start(sequence);
  return layer_.attended(hidden, sequence.embeddings, draft_.decoder().rotary(hidden));
}

// Until now their right halves are the base's, which give its own where its last layer's input is
// read.
void LayerFit::fit_projections() {
  const int64_t h = draft_.settings().architecture.hidden_size;
  std::vector<std::string> products;
  std::vector<at::Tensor> of_base;
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
    products.push_back(fmt::format("{}self_attn.{}", kLayer, name));
    of_base.push_back(parameter(draft_, products.back() + ".weight").slice(1, h));
  }
  fit(products, [&, weight = at::cat(of_base)](const Sequence& s) -> Example {
    const auto normed = layer_.projections_read(s.next_input, s.embeddings).slice(-1, h);
    return {layer_.projections_read(start(s), s.embeddings), at::linear(normed, weight)};
  });
}

void LayerFit::finish() {
  if (sequences_.empty()) return;
  fit({"fc"}, [](const Sequence& s) -> Example { return {at::cat(s.read, -1), s.state}; });
  fit_projections();
  const auto output = kLayer + "self_attn.o_proj", down = kLayer + "mlp.down_proj";
  fit({output}, [&](const Sequence& s) -> Example {
    const auto [rows, carried] = attended(s);
    return {rows, without_bias(s.next_input - carried, output)};
  });
  fit({down}, [&](const Sequence& s) -> Example {
    const auto residual = layer_.residual(attended(s));
    return {layer_.down_reads(residual), without_bias(s.next_state - residual, down)};
  });
}

}  // namespace outrider::eagle
