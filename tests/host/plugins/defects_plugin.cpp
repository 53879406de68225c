// A draft with one defect at a time, chosen by its config: what `outrider plugin check` must find.
#include <ATen/ATen.h>
#include <c10/core/DefaultDtype.h>
#include <torch/csrc/autograd/custom_function.h>
#include <unistd.h>

#include <csignal>

#include "outrider/decode/stepwise.h"
#include "outrider/loss/step_logits.h"
#include "outrider/nn/linear.h"
#include "outrider/ops/operator_library.h"
#include "outrider/ops/streaming_cross_entropy.h"
#include "outrider/sdk/plugin.h"
#include "outrider/sdk/simple_mode.h"

namespace {

using outrider::BaseInfo;

struct Config {
  std::string defect = "none";
};

const outrider::StructSchema<Config>& schema() {
  static const auto& schema = *new outrider::StructSchema<Config>(
      outrider::StructSchema<Config>("DefectsConfig")
          .field("defect", &Config::defect, "What is wrong with the draft."));
  return schema;
}

/// Proposes one token from the base's last state, with one defect.
class Drafter final : public outrider::Drafter {
 public:
  Drafter(std::shared_ptr<outrider::nn::Linear> layer, std::string defect)
      : layer_(std::move(layer)), defect_(std::move(defect)) {}

  void prefill(const outrider::BaseOutputs& accepted, const at::Tensor& tokens) override {
    commit(accepted, tokens);
  }
  void commit(const outrider::BaseOutputs& accepted, const at::Tensor& tokens) override {
    head_ = accepted.head;
    const auto& hidden = accepted.last_hidden;
    auto last = (tokens.ge(0).sum(1) - 1).view({-1, 1, 1});
    if (has("is one row late")) last = (last - 1).clamp_min(0);
    state_ = hidden.gather(1, last.expand({-1, 1, hidden.size(2)}));
    if (has("is larger in decoding")) state_ = state_ * 1.5;
    if (has("remembers what was rejected") && proposed_.defined()) {
      state_ = state_ + head_->embedding(proposed_);
    }
    if (has("crashes in commit")) std::raise(SIGSEGV);
  }
  void keep(const std::vector<int64_t>& sequences) override {
    auto index = at::tensor(sequences, at::kLong);
    if (has("keeps the first")) index = at::arange(index.size(0));
    state_ = state_.index_select(0, index);
    if (proposed_.defined()) proposed_ = proposed_.index_select(0, index);
  }
  outrider::DraftTree propose(const outrider::DraftRequest& request) override {
    auto tree = outrider::decode::draft_stepwise(
        {.state = state_,
         .logits = [this](const at::Tensor& states) { return logits(states); },
         .advance = [](const at::Tensor& states, const at::Tensor&,
                       const at::Tensor&) { return states; },
         .vocab_size = head_->vocab_size(),
         .most_levels = 1},
        request);
    if (has("draws from another distribution") && tree.q.defined()) {
      tree.tokens = request.sampler->draw(tree.q.square().squeeze(1)).unsqueeze(1);
    }
    if (has("says another distribution") && tree.q.defined()) tree.q = at::softmax(tree.q, -1);
    if (has("proposes otherwise again")) state_ = state_ * 0.5;
    proposed_ = tree.tokens.slice(1, 0, 1);
    return tree;
  }

 private:
  bool has(const char* defect) const { return defect_ == defect; }
  at::Tensor logits(const at::Tensor& states) const {
    const auto rows = states + layer_->forward(states);
    return head_->logits(rows.flatten(0, 1)).view({rows.size(0), rows.size(1), -1});
  }

  std::shared_ptr<outrider::nn::Linear> layer_;
  std::string defect_;
  std::shared_ptr<const outrider::LmHead> head_;
  at::Tensor state_;     // [B,1,h]
  at::Tensor proposed_;  // [B,1]
};

/// Predicts the token two positions after the base's last hidden state.
class Draft final : public outrider::Draft {
 public:
  Draft(const BaseInfo& base, const Config& config) : defect_(config.defect) {
    const auto options =
        at::TensorOptions().dtype(has("float32") ? at::kFloat : base.dtype).device(base.device);
    layer_ = register_module("layer", outrider::nn::initialized_linear(
                                          base.hidden_size, base.hidden_size, true, options));
    if (has("forgets a parameter")) {
      forgotten_ = at::ones({base.hidden_size}, options).requires_grad_();
    }
    if (has("crash in convert")) std::raise(SIGSEGV);
    if (has("exit in convert")) ::_exit(0);
    if (has("hang in convert")) ::sleep(1000);
    if (has("leaks the dtype")) c10::set_default_dtype(caffe2::TypeMeta::Make<double>());
    if (has("own seed")) at::manual_seed(static_cast<uint64_t>(::getpid() + ++conversions_));
    if (has("own seed")) layer_->reset_parameters();
  }

  outrider::HiddenStateRequest hidden_states_needed() const override { return {}; }

  std::unique_ptr<outrider::Drafter> make_drafter() override {
    return std::make_unique<Drafter>(layer_, defect_);
  }

  outrider::DraftLoss loss(const outrider::BaseOutputs& base,
                           const outrider::TrainBatch& batch) override {
    const auto targets = outrider::token_targets(batch);
    const int64_t length = targets.ids.size(1), rows = std::max<int64_t>(0, length - 2);
    auto hidden = base.last_hidden;
    if (has("sees the future")) hidden = hidden + at::roll(hidden, -9, 1);
    if (has("reads its target")) hidden = hidden + at::roll(base.input_embeddings, -2, 1);
    if (has("sees its neighbour")) hidden = hidden + 0.1 * hidden.mean(0, /*keepdim=*/true);
    if (batch.recorder) {
      const auto states = hidden + layer_->forward(hidden);
      batch.recorder(outrider::loss::step_logits_name(0),
                     base.head->logits(states.flatten(0, 1)).view({states.size(0), length, -1}));
    }
    hidden = hidden.slice(1, 0, rows).flatten(0, 1);
    const auto mask = targets.mask.slice(1, length - rows).flatten();
    const auto count = has("counts padding") ? at::ones_like(mask).sum() : mask.sum();
    const auto weights = (mask / count.clamp_min(1.0)).unsqueeze(0);
    if (forgotten_.defined()) hidden = hidden * forgotten_;
    const auto students = (hidden + layer_->forward(hidden)).unsqueeze(0);
    const auto loss = outrider::ops::streaming_cross_entropy(
        students, base.head->weight(), targets.ids.slice(1, length - rows).flatten(), weights);
    auto total = has("learns the opposite") ? -loss.total : loss.total;
    if (has("nan")) total = total * std::numeric_limits<double>::quiet_NaN();
    if (has("grows")) total = total + static_cast<double>(++calls_);
    return {total,
            {{"step", loss.total.detach(), (loss.rows.correct * weights).sum(),
              (loss.rows.overlap * weights).sum(), count}}};
  }

 private:
  bool has(const char* defect) const { return defect_ == defect; }

  inline static int conversions_ = 0;
  std::string defect_;
  int calls_ = 0;
  at::Tensor forgotten_;
  std::shared_ptr<outrider::nn::Linear> layer_;
};

/// x², with the gradient of x³ where the environment asks for it.
struct Square : torch::autograd::Function<Square> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x) {
    ctx->save_for_backward({x});
    return x * x;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const auto x = ctx->get_saved_variables()[0];
    const bool is_wrong = std::getenv("OUTRIDER_WRONG_GRADIENT") != nullptr;
    return {grads[0] * (is_wrong ? 3 * x * x : 2 * x)};
  }
};

at::Tensor square(const at::Tensor& x) { return Square::apply(x); }

std::vector<outrider::OperatorInputs> samples(at::ScalarType type) {
  return {{at::randn({3, 4}).to(type)}, {at::randn({7}).to(type)}};
}

}  // namespace

OUTRIDER_PLUGIN(registrar) {
  auto& library = outrider::define_operator_namespace("outrider_defects");
  library.def("square(Tensor x) -> Tensor");
  library.impl("square", c10::DispatchKey::CompositeImplicitAutograd, TORCH_FN(square));
  outrider::add_operator_spec({.name = "outrider_defects::square", .sample_inputs = samples});
  if (std::getenv("OUTRIDER_LEAKS_AT_LOAD") != nullptr) at::manual_seed(123);
  if (std::getenv("OUTRIDER_CRASHES_AT_LOAD") != nullptr) std::raise(SIGABRT);
  registrar.add(std::make_unique<outrider::SimpleMode<Draft, Config>>(
      "defects", "One layer with a defect.", "defects_module", schema()));
}
