#include "teacher.h"

#include <ATen/ATen.h>

namespace outrider::eagle {

Teacher::Teacher(const BaseOutputs& base, at::Tensor target_ids)
    : hidden_(base.last_hidden.detach().flatten(0, 1)),
      whole_weight_(base.head->weight().detach()),
      weight_(target_ids.defined() ? whole_weight_.index_select(0, target_ids) : whole_weight_),
      logits_(base.logits.defined() ? base.logits.detach().flatten(0, 1) : at::Tensor()),
      target_ids_(std::move(target_ids)) {}

ops::TeacherTargets Teacher::targets(const at::Tensor& rows) const {
  if (!logits_.defined()) {
    return {hidden_.index_select(0, rows),
            [weight = weight_](const at::Tensor& r) { return at::linear(r, weight); },
            {}};
  }
  return {rows,
          [logits = logits_, ids = target_ids_](const at::Tensor& r) {
            const auto whole = logits.index_select(0, r);
            return ids.defined() ? whole.index_select(1, ids) : whole;
          },
          {}};
}

at::Tensor Teacher::measure_whole_vocabulary(const at::Tensor& rows,
                                             ops::TeacherTargets& targets) const {
  const auto whole = logits_.defined()
                         ? ops::stored_logit_statistics(logits_, rows)
                         : ops::streaming_logit_statistics(targets.rows, whole_weight_);
  targets.full_log_sum_exp = whole.log_sum_exp;
  return at::isin(whole.argmax, target_ids_, /*assume_unique=*/false);
}

at::Tensor pull_on_targets(const BaseOutputs& base, const at::Tensor& target_ids,
                           const at::Tensor& rows, const at::Tensor& student_logits,
                           const at::Tensor& row_weights) {
  const auto hidden = base.last_hidden.flatten(0, 1).index_select(0, rows);
  const auto whole = base.head->weight();
  const auto logits =
      at::linear(hidden, target_ids.defined() ? whole.index_select(0, target_ids) : whole);
  const auto targets = at::softmax(logits, -1, at::kFloat);
  const auto surprise = -at::log_softmax(student_logits, -1, at::kFloat);
  const auto loss = ((targets * surprise).sum(-1) * row_weights).sum();
  return loss - loss.detach();
}

}  // namespace outrider::eagle
