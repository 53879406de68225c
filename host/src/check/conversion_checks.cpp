#include <ATen/ATen.h>
#include <fmt/format.h>

#include "check/check.h"
#include "check/mode_runs.h"
#include "check/process_state.h"
#include "convert/allocation_budget.h"
#include "outrider/text.h"

namespace outrider::check {
namespace {

// Everything of a model that a conversion could change.
struct ModelState {
  explicit ModelState(const CausalLM& model)
      : tensors(copied_tensors(model)),
        conversions(model.speculative_state().size()),
        training(model.is_training()) {
    for (const auto& item : model.named_parameters()) {
      flags[item.key()] = item.value().requires_grad();
    }
  }

  TensorMap tensors;
  std::map<std::string, bool> flags;
  size_t conversions;
  bool training;
};

void require_unchanged(const CausalLM& model, const ModelState& before, const std::string& when) {
  const ModelState after(model);
  require_equal(after.tensors, before.tensors, when + ", the model has changed");
  if (after.flags != before.flags || after.conversions != before.conversions ||
      after.training != before.training) {
    throw Failure(when + ", the model's flags or its list of conversions have changed");
  }
}

bool converts_within(const ModeSubject& subject, CausalLM& model, size_t bytes) {
  try {
    const AllocationBudget budget(bytes, Error(ErrorCode::kDeviceUnavailable, "out of memory"));
    convert(subject, model);
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

// A plugin that runs out of memory wherever it allocates a tensor: the growing budgets make it
// fail at one point after the other until the conversion succeeds.
std::string check_all_or_nothing(const ModeSubject& subject) {
  const auto process = ProcessState::now();
  convert(subject, *subject.base.model());  // its error is better than that of a limit
  require_same_process(process, "converting");
  const auto model = subject.base.model();
  const ModelState before(*model);
  int failures = 0;
  for (size_t bytes = 64; !converts_within(subject, *model, bytes); bytes += bytes / 4) {
    const auto when = fmt::format("after a conversion that ran out of memory at {} bytes", bytes);
    require_unchanged(*model, before, when);
    require_same_process(process, when + ", it");
    ++failures;
  }
  return fmt::format("{} conversions that failed half-way left no trace", failures);
}

std::string check_determinism(const ModeSubject& subject) {
  const auto first = subject.base.model(), second = subject.base.model();
  convert(subject, *first, 7);
  at::rand({5});  // moves the process's generator, which must not matter
  convert(subject, *second, 7);
  require_equal(copied_tensors(*second), copied_tensors(*first),
                "two conversions with one seed differ");
  const auto& a = first->speculative_state().back().state;
  const auto& b = second->speculative_state().back().state;
  if (a.config != b.config || a.metadata != b.metadata) {
    throw Failure("two conversions with one seed record different configs or metadata");
  }
  return "equal seeds give equal bits";
}

std::string check_freeze(const ModeSubject& subject) {
  const auto model = subject.base.model();
  const ModelState before(*model);
  convert(subject, *model);
  TensorMap base = copied_tensors(*model);
  std::erase_if(base, [&](const auto& item) { return is_draft_tensor(*model, item.first); });
  if (model->has_edit(BaseEdit::kDropDecoderLayers)) {
    throw Skip("this mode's default drops the base's layers");
  }
  require_equal(base, before.tensors, "converting changes the base's weights");
  if (!model->has_edit(BaseEdit::kFreezeParameters)) throw Skip("this mode trains the base");
  model->forward(some_batch(*model)).loss.backward();
  std::vector<std::string> wrong;
  for (const auto& item : model->named_parameters()) {
    if (is_draft_tensor(*model, item.key())) continue;
    if (item.value().requires_grad() || item.value().grad().defined()) wrong.push_back(item.key());
  }
  if (!wrong.empty()) throw Failure("of the frozen base these get gradients: " + listed(wrong));
  return fmt::format("{} tensors of the base stay as they were", before.tensors.size());
}

constexpr ModeCheck kConversionChecks[] = {
    {"all_or_nothing", "a conversion that fails half-way leaves model and process as they were",
     check_all_or_nothing},
    {"determinism", "one seed gives one draft", check_determinism},
    {"freeze", "a frozen base keeps its weights and gets no gradients", check_freeze}};

}  // namespace

std::span<const ModeCheck> conversion_checks() { return kConversionChecks; }

}  // namespace outrider::check
