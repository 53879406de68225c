#include "trainer/finite_watch.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <string>
#include <utility>

#include "outrider/text.h"

namespace outrider {
namespace {

/// A NaN has no sign that means anything.
std::string shown(float value) { return std::isnan(value) ? "nan" : fmt::format("{}", value); }

}  // namespace

void FiniteWatch::remember(Step step) { steps_.push_back(std::move(step)); }

void FiniteWatch::check() {
  std::vector<at::Tensor> values;
  for (const auto& step : steps_) {
    values.insert(values.end(), {step.loss.to(at::kFloat), step.gradient_norm});
  }
  if (values.empty()) return;
  const auto on_host = at::stack(values).cpu();
  const auto* value = on_host.const_data_ptr<float>();
  for (const auto& step : std::exchange(steps_, {})) {
    const float loss = *value++, norm = *value++;
    if (!std::isfinite(loss) || !std::isfinite(norm)) report(step, loss, norm);
  }
}

void FiniteWatch::report(const Step& step, float loss, float norm) const {
  const auto conversations = fmt::format("{}", fmt::join(step.conversations, ", "));
  const auto what = fmt::format(
      "step {}: loss {}, gradient norm {}; the batch held conversations {} of {} (counted from 0)",
      step.number, shown(loss), shown(norm), printable(conversations, 1000),
      in_quotes(data_.string()));
  if (diagnose_) {
    if (const auto cause = diagnose_(step.conversations)) {
      throw Error(cause->code(), fmt::format("{}: {}", what, cause->what()), cause->hint());
    }
  }
  throw Error(ErrorCode::kNonFinite, what,
              "nothing of this step was saved: start a new run, from the last checkpoint's folder "
              "or the beginning, with a lower --learning-rate or --max-grad-norm, or on data "
              "without these conversations");
}

}  // namespace outrider
