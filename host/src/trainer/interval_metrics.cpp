#include "trainer/interval_metrics.h"

#include <ATen/ATen.h>

namespace outrider {
namespace {

constexpr const char* kLossesName = "metrics";

}  // namespace

void IntervalMetrics::add(const ForwardOutput& output, const TokenCounts& counts) {
  const at::NoGradGuard no_grad;
  drafts_.add(output.draft_losses);
  const auto loss = output.loss.detach().to(at::kDouble);
  has_lm_loss_ = output.lm_loss.defined();
  const auto lm_loss =
      has_lm_loss_ ? output.lm_loss.detach().to(at::kDouble) : at::zeros_like(loss);
  const auto values = at::stack({loss, lm_loss, at::ones_like(loss)});
  losses_ = losses_.defined() ? losses_ + values : values;
  counts_.tokens += counts.tokens;
  counts_.trained += counts.trained;
}

Json IntervalMetrics::report() const {
  if (!losses_.defined()) return Json::object();
  const auto losses = losses_.cpu();
  const auto* values = losses.const_data_ptr<double>();
  Json report = {{"loss", values[0] / values[2]}, {"drafts", to_json(drafts_.report())}};
  if (has_lm_loss_) report["lm_loss"] = values[1] / values[2];
  const double seconds = std::chrono::duration<double>(Clock::now() - since_).count();
  report["tokens_per_second"] = static_cast<double>(counts_.tokens) / seconds;
  report["trained_tokens_per_second"] = static_cast<double>(counts_.trained) / seconds;
  return report;
}

void IntervalMetrics::restart() {
  drafts_.reset();
  losses_.reset();
  counts_ = {};
  restart_clock();
}

TensorMap IntervalMetrics::state() const {
  auto state = drafts_.state();
  if (losses_.defined()) state[kLossesName] = losses_;
  return state;
}

void IntervalMetrics::load_state(const TensorMap& state, at::Device device) {
  drafts_.load_state(state, device);
  if (const auto found = state.find(kLossesName); found != state.end()) {
    losses_ = found->second.to(device, /*non_blocking=*/false);
  }
}

}  // namespace outrider
