#include "draft_input.h"

#include <ATen/ATen.h>

#include "kernels/double_norm_concat.h"
#include "outrider/nn/linear.h"
#include "outrider/nn/rms_norm.h"

namespace outrider::eagle {
namespace {

/// EAGLE-3 (arXiv 2503.01840): several layers of the base, projected; the first decoder layer reads
/// the embeddings.
class LayersInput : public DraftInput {
 public:
  LayersInput(torch::nn::Module& owner, const DraftSettings& settings, at::TensorOptions options)
      : layers_(settings.aux_layer_ids) {
    const auto& a = settings.architecture;
    const int64_t read = static_cast<int64_t>(layers_.size()) * a.hidden_size;
    fc_ = owner.register_module("fc",
                                nn::initialized_linear(read, a.draft_hidden_size, false, options));
  }

  HiddenStateRequest hidden_states_needed() const override { return {.layer_outputs = layers_}; }

  at::Tensor start(const BaseOutputs& base) const override {
    std::vector<at::Tensor> hidden;
    for (const int64_t layer : layers_) hidden.push_back(base.layer_outputs.at(layer).detach());
    const ops::LinearInput joined(hidden, [](const auto& layers) { return at::cat(layers, -1); });
    return nn::outputs_of({fc_.get()}, joined).front();
  }

  at::Tensor combine(const at::Tensor& hidden, const at::Tensor&) const override { return hidden; }

 private:
  std::vector<int64_t> layers_;
  std::shared_ptr<nn::Linear> fc_;
};

/// The base's last state alone, as ModelOpt 0.47 trains EAGLE-1 and EAGLE-MTP.
class LastHiddenInput : public DraftInput {
 public:
  HiddenStateRequest hidden_states_needed() const override { return {}; }
  at::Tensor start(const BaseOutputs& base) const override { return base.last_hidden; }
  at::Tensor combine(const at::Tensor& hidden, const at::Tensor&) const override { return hidden; }
};

/// EAGLE-1 (arXiv 2401.15077): fc([e ; h]) in every step.
class MergedInput : public LastHiddenInput {
 public:
  MergedInput(torch::nn::Module& owner, const Architecture& a, at::TensorOptions options)
      : fc_(owner.register_module(
            "fc", nn::initialized_linear(2 * a.hidden_size, a.hidden_size, false, options))) {}

  at::Tensor combine(const at::Tensor& hidden, const at::Tensor& embeddings) const override {
    return fc_->forward(at::cat({embeddings, hidden}, -1));
  }

 private:
  std::shared_ptr<nn::Linear> fc_;
};

/// EAGLE-MTP (the multi-token prediction of arXiv 2412.19437): fc([norm(e) ; norm(h)]).
class NormedInput : public LastHiddenInput {
 public:
  NormedInput(torch::nn::Module& owner, const Architecture& a, at::TensorOptions options)
      : eps_(a.rms_norm_eps) {
    const auto add_norm = [&](const char* name) {
      return owner.register_module(name,
                                   std::make_shared<nn::RmsNorm>(a.hidden_size, eps_, options));
    };
    enorm_ = add_norm("enorm");
    hnorm_ = add_norm("hnorm");
    fc_ = owner.register_module(
        "fc", nn::initialized_linear(2 * a.hidden_size, a.hidden_size, false, options));
  }

  at::Tensor combine(const at::Tensor& hidden, const at::Tensor& embeddings) const override {
    return fc_->forward(double_norm_concat(embeddings, hidden, enorm_->weight, hnorm_->weight, eps_,
                                           /*twice=*/false));
  }

 private:
  double eps_;
  std::shared_ptr<nn::RmsNorm> enorm_, hnorm_;
  std::shared_ptr<nn::Linear> fc_;
};

}  // namespace

std::unique_ptr<DraftInput> make_draft_input(torch::nn::Module& owner,
                                             const DraftSettings& settings,
                                             at::TensorOptions options) {
  const auto& a = settings.architecture;
  if (a.use_aux_hidden_state) return std::make_unique<LayersInput>(owner, settings, options);
  if (!settings.numerics.merges_embeddings) return std::make_unique<LastHiddenInput>();
  if (a.use_mtp_layernorm && settings.numerics.norms_mtp_inputs) {
    return std::make_unique<NormedInput>(owner, a, options);
  }
  return std::make_unique<MergedInput>(owner, a, options);
}

}  // namespace outrider::eagle
